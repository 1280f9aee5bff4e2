use std::io::Cursor;

use image_format::{Delta, Mode, build_in_memory};

use super::*;

struct Made {
    task: ImageTask,
    pieces: Vec<u8>,
    trusted: Vec<String>,
}

/// A tiny image with manifest, metainfo and a signature by a key of the site.
fn make(change: impl Fn(&mut Manifest)) -> Made {
    let root = image_format::Node {
        path: Vec::new(),
        metadata: image_format::Metadata::default(),
        names: image_format::OwnerNames::default(),
        xattrs: Vec::new(),
        kind: image_format::NodeKind::Directory,
    };
    let tree = image_format::Tree::new(vec![root]).unwrap();
    let mut made = build_in_memory(&tree, &|_| Vec::new(), "tiny").unwrap();
    let sha1 = vec![[7; 20]; made.manifest.piece_count as usize];
    let piece_length = u32::try_from(made.manifest.piece_size).unwrap();
    let metainfo =
        Metainfo::encode_single_file("tiny.esir", made.manifest.file_size, piece_length, &sha1, None)
            .unwrap();
    made.manifest.info_hash = Metainfo::parse(&metainfo).unwrap().info_hash.0;
    change(&mut made.manifest);
    let manifest = made.manifest.to_bytes().unwrap();
    let pair = minisign::KeyPair::generate_unencrypted_keypair().unwrap();
    let signature = minisign::sign(None, &pair.sk, Cursor::new(&manifest), None, None).unwrap().into_string();
    let task = ImageTask {
        name: "tiny".into(),
        manifest_base64: BASE64.encode(manifest),
        signature: Some(signature),
        metainfo_base64: BASE64.encode(metainfo),
        allow_unsigned: false,
    };
    Made { task, pieces: made.pieces, trusted: vec![pair.pk.to_base64()] }
}

fn code(task: &ImageTask, trusted: &[String]) -> &'static str {
    check(task, trusted).map_or_else(|error| error.code(), |_| "accepted")
}

#[test]
fn signed_image_is_accepted_with_its_piece_list() {
    let made = make(|_| {});
    let image = check(&made.task, &made.trusted).unwrap();
    assert_eq!(check_piece_list(&image, &made.pieces).unwrap().len(), image.metainfo.pieces.len());
    let mut other = made.pieces.clone();
    other[0] ^= 1;
    assert_eq!(check_piece_list(&image, &other).unwrap_err().code(), "image-pieces");
    assert!(check_piece_list(&image, &made.pieces[1..]).is_err());
    assert!(check_piece_list(&image, &[]).is_err());
}

#[test]
fn wrong_and_missing_signatures_stop_the_node() {
    let made = make(|_| {});
    let stranger = make(|_| {}).trusted;
    assert_eq!(code(&made.task, &stranger), "image-signature");
    assert_eq!(code(&made.task, &[]), "image-signature");
    let mut changed = made.task.clone();
    changed.manifest_base64 = make(|manifest| manifest.name = "other".into()).task.manifest_base64;
    assert_eq!(code(&changed, &made.trusted), "image-signature");
    let unsigned = ImageTask { signature: None, ..made.task.clone() };
    assert_eq!(code(&unsigned, &made.trusted), "image-signature");
    let allowed = ImageTask { allow_unsigned: true, ..unsigned };
    assert_eq!(code(&allowed, &made.trusted), "accepted");
    // Allowing unsigned images does not make a wrong signature right.
    let wrong = ImageTask { allow_unsigned: true, ..changed };
    assert_eq!(code(&wrong, &made.trusted), "image-signature");
}

#[test]
fn image_of_a_partition_is_taken_and_a_delta_image_leads_nowhere_alone() {
    let partition = make(|manifest| manifest.mode = Mode::Partition);
    assert_eq!(code(&partition.task, &partition.trusted), "accepted");
    let delta = make(|manifest| {
        manifest.mode = Mode::Delta;
        manifest.delta = Some(Delta { base: manifest.image_id, image: manifest.image_id });
    });
    let error = check(&delta.task, &delta.trusted).unwrap_err();
    assert_eq!(error.code(), "image-manifest");
    assert!(error.to_string().contains("is a delta image"), "{error}");
}

#[test]
fn metainfo_of_another_image_is_refused() {
    let made = make(|manifest| manifest.info_hash[0] ^= 1);
    assert_eq!(code(&made.task, &made.trusted), "image-metainfo");
    let garbage = ImageTask { metainfo_base64: BASE64.encode(b"d4:info"), ..make(|_| {}).task };
    assert_eq!(code(&garbage, &[]), "image-signature");
}

#[test]
fn refusals_say_that_nothing_was_written() {
    let made = make(|_| {});
    let error = check(&made.task, &make(|_| {}).trusted).unwrap_err();
    assert!(error.to_string().contains("nothing was written"), "{error}");
    assert_eq!(error.recovery(), Recovery::Wait);
}
