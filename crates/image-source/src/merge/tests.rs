use image_format::{FileContent, Metadata, NodeKind, OwnerNames};

use super::{Merge, Over};
use crate::member::{Member, MemberKind, split_path};

fn member(path: &str, kind: MemberKind) -> Member {
    let names = split_path(path.as_bytes()).unwrap();
    Member {
        names,
        metadata: Metadata::default(),
        owner_names: OwnerNames::default(),
        xattrs: Vec::new(),
        kind,
        data_offset: 0,
    }
}

/// `d/`, `f`, `l -> target`, `h = target`.
fn parse(text: &str) -> Member {
    if let Some((path, target)) = text.split_once(" -> ") {
        return member(path, MemberKind::Symlink { target: target.as_bytes().to_vec() });
    }
    if let Some((path, target)) = text.split_once(" = ") {
        return member(path, MemberKind::HardLink { target: split_path(target.as_bytes()).unwrap() });
    }
    if text.ends_with('/') {
        return member(text, MemberKind::Directory);
    }
    member(text, MemberKind::File(FileContent::default()))
}

/// Each source with how it goes over those before; the tree as lines.
fn merged(sources: &[(Over, &[&str])]) -> Result<Vec<String>, String> {
    let mut merge: Merge<u32> = Merge::default();
    for (number, (over, members)) in (1..).zip(sources) {
        merge.begin(*over);
        for text in *members {
            merge.add(parse(text), number).map_err(|error| {
                format!(
                    "{error}: {}",
                    std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default()
                )
            })?;
        }
    }
    let (tree, places) = merge.into_tree().map_err(|error| error.to_string())?;
    let line = |(node, place): (&image_format::Node, &u32)| {
        let path = String::from_utf8_lossy(&node.path).into_owned();
        match &node.kind {
            NodeKind::Directory => format!("{path}/"),
            NodeKind::Symlink { target } => format!("{path} -> {}", String::from_utf8_lossy(target)),
            NodeKind::HardLink { to } => format!("{path} = {to}"),
            _ => format!("{path} {place}"),
        }
    };
    Ok(tree.nodes().iter().zip(&places).map(line).collect())
}

fn check(sources: &[(Over, &[&str])], expected: &[&str]) {
    assert_eq!(merged(sources).unwrap(), expected);
}

use Over::{Layer, Unpacked};

#[test]
fn whiteouts_hide_lower_layers_only() {
    check(
        &[(Layer, &["a/", "a/x", "a/y", "b"]), (Layer, &["a/.wh.x", "a/z", ".wh.b", "b"])],
        &["/", "a/", "a/y 1", "a/z 2", "b 2"],
    );
    // Before or after it in the layer: what the layer itself brings stays.
    check(
        &[(Layer, &["a/", "a/x", "a/sub/y"]), (Layer, &["a/", "a/new", "a/.wh..wh..opq"])],
        &["/", "a/", "a/new 2"],
    );
    check(&[(Layer, &["a/x/y"]), (Layer, &[".wh.a"])], &["/"]);
    check(&[(Layer, &["a"]), (Layer, &[".wh..wh.plnk"])], &["/", "a 1"]);
    check(&[(Unpacked, &["a"]), (Unpacked, &[".wh.a"])], &["/", ".wh.a 2", "a 1"]);
}

#[test]
fn kinds_replace_each_other() {
    check(&[(Layer, &["a/", "a/x"]), (Layer, &["a"])], &["/", "a 2"]);
    check(&[(Layer, &["a"]), (Layer, &["a/", "a/x"])], &["/", "a/", "a/x 2"]);
    check(&[(Layer, &["a/", "a/x"]), (Layer, &["a/"])], &["/", "a/", "a/x 1"]);
}

#[test]
fn a_directory_goes_through_a_link_where_a_tar_is_unpacked() {
    let base: &[&str] = &["usr/", "usr/lib/", "usr/lib/x", "lib -> usr/lib"];
    let over: &[&str] = &["lib/", "lib/modules/", "lib/modules/m"];
    check(
        &[(Unpacked, base), (Unpacked, over)],
        &[
            "/",
            "lib -> usr/lib",
            "usr/",
            "usr/lib/",
            "usr/lib/modules/",
            "usr/lib/modules/m 2",
            "usr/lib/x 1",
        ],
    );
    check(
        &[(Layer, base), (Layer, over)],
        &["/", "lib/", "lib/modules/", "lib/modules/m 2", "usr/", "usr/lib/", "usr/lib/x 1"],
    );
}

#[test]
fn hard_links_reach_into_lower_layers_and_outlive_their_first_name() {
    check(&[(Layer, &["a"]), (Layer, &["b = a"])], &["/", "a 1", "b = 1"]);
    check(&[(Layer, &["a", "b = a"]), (Layer, &[".wh.a"])], &["/", "b 1"]);
    check(&[(Layer, &["a", "b = a"]), (Layer, &["a"])], &["/", "a 2", "b 1"]);
    let refused = merged(&[(Layer, &["b = a"])]).unwrap_err();
    assert!(refused.contains("does not come before it"), "{refused}");
    assert!(merged(&[(Layer, &["a/", "b = a"])]).is_err());
}

#[test]
fn links_never_lead_out_and_never_around() {
    check(
        &[(Layer, &["l -> ../../../etc", "l/passwd"])],
        &["/", "etc/", "etc/passwd 1", "l -> ../../../etc"],
    );
    assert!(
        merged(&[(Layer, &["a -> b", "b -> a", "a/x"])]).unwrap_err().contains("too many symbolic links")
    );
    assert!(merged(&[(Layer, &["a", "a/x"])]).unwrap_err().contains("not a directory"));
}

#[test]
fn what_is_left_out_goes_with_all_beneath_it() {
    let mut merge: Merge<u32> = Merge::default();
    for text in ["a/", "a/x", "a/y/z", "ab", "c = a/x"] {
        merge.add(parse(text), 1).unwrap();
    }
    merge.leave_out(|path| path == b"a");
    let (tree, _) = merge.into_tree().unwrap();
    let paths: Vec<&[u8]> = tree.nodes().iter().map(|node| node.path.as_slice()).collect();
    assert_eq!(paths, [&b""[..], b"ab", b"c"]);
}
