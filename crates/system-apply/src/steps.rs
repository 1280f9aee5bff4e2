//! Follows the task's steps: conditions on paths, programs run inside the system, files put into it.
//!
//! Never knows what a step is for: the server worked that out.

use std::path::Path;
use std::time::{Duration, Instant};

use node_api::{Step, StepFile, StepFileKind, StepProgram};

use super::accounts::Accounts;
use super::tree::{Tree, TreeError};
use crate::chroot::{Chroot, ChrootError};

/// Where the program of a step lies while it runs, beside the system's record of its origin.
const PROGRAM: &str = "/var/lib/esir/step";
/// What a report keeps of a program's words, characters; all of them are in the log.
const SAID_CHARACTERS_MAX: usize = 1000;

/// A step that could not be done.
#[derive(Debug, thiserror::Error)]
pub enum StepFailure {
    /// Its program.
    #[error("{0}")]
    Program(String, #[source] ChrootError),
    /// A file.
    #[error(transparent)]
    File(#[from] TreeError),
    /// Nobody of this name.
    #[error("{step}: the installed system has no user or group `{owner}`, whose {path} is to be")]
    Owner { step: String, owner: String, path: String },
}

/// Does them in their order and says what was done, one line each.
pub(super) async fn follow(tree: &mut Tree, root: &Path, steps: &[Step]) -> Result<Vec<String>, StepFailure> {
    let mut done = Vec::new();
    let mut taken: Vec<&str> = Vec::new();
    for step in steps {
        if taken.contains(&step.one_of.as_str()) || !applies(tree, step) {
            continue;
        }
        if !step.one_of.is_empty() {
            taken.push(&step.one_of);
        }
        if let Some(program) = &step.program {
            done.push(run(tree, root, &step.name, program).await?);
        } else {
            tracing::info!("{}", step.name);
        }
        let accounts = Accounts::read(tree)?;
        for file in &step.files {
            put(tree, &accounts, &step.name, file)?;
        }
    }
    Ok(done)
}

fn applies(tree: &Tree, step: &Step) -> bool {
    let any = |paths: &[String]| paths.iter().any(|path| tree.exists(path));
    (step.if_any.is_empty() || any(&step.if_any)) && !any(&step.unless_any)
}

async fn run(tree: &mut Tree, root: &Path, name: &str, program: &StepProgram) -> Result<String, StepFailure> {
    let begun = Instant::now();
    tree.write(PROGRAM, &program.contents.0, 0o700)?;
    // Only now: what is put into the tree never reaches the boot environment's own devices.
    let chroot = Chroot::open(root).map_err(|error| StepFailure::Program(name.to_owned(), error))?;
    let limit = Duration::from_secs(program.limit_s);
    let ended = chroot.run_with(&program.environment, PROGRAM, &[], limit).await;
    drop(chroot);
    tree.remove(PROGRAM)?;
    let said = ended.map_err(|error| StepFailure::Program(name.to_owned(), error))?;
    for line in said.lines() {
        tracing::info!("{name}: {line}");
    }
    let took = begun.elapsed().as_secs_f64();
    let skip = said.chars().count().saturating_sub(SAID_CHARACTERS_MAX);
    let end: String = said.chars().skip(skip).collect();
    let colon = if end.is_empty() { "" } else { ": " };
    tracing::info!("{name}: done in {took:.1} s");
    Ok(format!("ran {name}, {took:.1} s{colon}{end}"))
}

fn put(tree: &mut Tree, accounts: &Accounts, step: &str, file: &StepFile) -> Result<(), StepFailure> {
    let nobody =
        || StepFailure::Owner { step: step.to_owned(), owner: file.owner.clone(), path: file.path.clone() };
    let path = accounts.path(&file.path).ok_or_else(nobody)?;
    let owner = accounts.owner(&file.owner).ok_or_else(nobody)?;
    match file.kind {
        StepFileKind::File => tree.put(&path, &mut file.contents.0.as_slice(), file.mode, owner)?,
        StepFileKind::Link => tree.link(&path, &file.contents.0, owner)?,
        StepFileKind::Folder => tree.make_folder_of(&path, file.mode, owner)?,
        StepFileKind::Absent => tree.remove(&path)?,
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use node_api::Contents;

    use super::*;

    fn file(path: &str, text: &str) -> StepFile {
        StepFile {
            path: path.into(),
            mode: 0o644,
            contents: Contents(text.as_bytes().to_vec()),
            ..StepFile::default()
        }
    }

    fn writes(one_of: &str, if_any: &str, path: &str) -> Step {
        Step {
            name: path.into(),
            one_of: one_of.into(),
            if_any: vec![if_any.into()],
            files: vec![file(path, path)],
            ..Step::default()
        }
    }

    #[tokio::test]
    async fn the_first_that_applies_of_several_is_done_and_no_other() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(root.path().join("usr/sbin")).unwrap();
        std::fs::write(root.path().join("usr/sbin/b"), "").unwrap();
        let mut tree = Tree::open(root.path()).unwrap();
        let unless =
            Step { unless_any: vec!["/usr/sbin/b".into()], if_any: vec![], ..writes("", "", "/etc/never") };
        let steps = [
            writes("n", "/usr/sbin/a", "/etc/a"),
            writes("n", "/usr/sbin/b", "/etc/b"),
            writes("n", "/usr/sbin/b", "/etc/c"),
            writes("", "/usr/sbin/b", "/etc/d"),
            unless,
        ];
        for _ in 0..2 {
            follow(&mut tree, root.path(), &steps).await.unwrap();
            assert_eq!(tree.names("/etc"), ["b", "d"]);
        }
        assert_eq!(tree.read_back().unwrap(), 2);
    }

    /// What a site that says nothing gets into an image of these paths, links among them as `PATH -> TARGET`.
    async fn check_network(image: &[&str], file: &str, others: &[&str]) {
        let root = tempfile::tempdir().unwrap();
        for path in image {
            let (path, target) = path.split_once(" -> ").map_or((*path, None), |(path, to)| (path, Some(to)));
            let path = root.path().join(path.trim_start_matches('/'));
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            match target {
                Some(target) => std::os::unix::fs::symlink(target, path).unwrap(),
                None => std::fs::write(path, "").unwrap(),
            }
        }
        let values = [("name", "n1"), ("mac", "52:54:00:aa:bb:cc")];
        let node = system_steps::Node {
            values: values.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
            ..system_steps::Node::default()
        };
        let steps = system_steps::Systems::default().steps(&node).unwrap().steps;
        let mut tree = Tree::open(root.path()).unwrap();
        for _ in 0..2 {
            follow(&mut tree, root.path(), &steps).await.unwrap();
        }
        let mut written: Vec<String> = tree.written().map(|path| path.display().to_string()).collect();
        written.sort();
        let mut wanted: Vec<&str> = [&[file][..], others].concat();
        wanted.sort_unstable();
        assert_eq!(written, wanted);
        assert!(tree.text(file).unwrap().contains("52:54:00:aa:bb:cc"));
    }

    const SERVER: [&str; 3] = ["/usr/bin/sh", "/bin -> usr/bin", "/sbin -> usr/sbin"];

    #[tokio::test]
    async fn a_debian_like_image_is_configured_by_ifupdown_or_by_networkd_if_that_is_enabled() {
        let networkd = "/usr/lib/systemd/system/systemd-networkd.service";
        let program = "/usr/lib/systemd/systemd-networkd";
        let enabled =
            format!("/etc/systemd/system/multi-user.target.wants/systemd-networkd.service -> {networkd}");
        let debian =
            [&SERVER[..], &[networkd, program, "/usr/sbin/ifup", "/etc/network/interfaces"]].concat();
        let files = ["/etc/network/interfaces.d/esir"];
        check_network(&debian, "/etc/systemd/network/10-esir.link", &files).await;
        let debian = [&debian[..], &[&enabled]].concat();
        check_network(&debian, "/etc/systemd/network/10-esir.network", &[]).await;
        // Debian 13 without either: the manager that is there is switched on.
        let bare = [&SERVER[..], &["/lib -> usr/lib", networkd, program]].concat();
        let wanted = ["/etc/systemd/system/multi-user.target.wants/systemd-networkd.service"];
        check_network(&bare, "/etc/systemd/network/10-esir.network", &wanted).await;
    }

    #[tokio::test]
    async fn an_ubuntu_like_image_is_configured_by_netplan_and_its_cloud_init_keeps_off() {
        let networkd = "/usr/lib/systemd/systemd-networkd";
        let ubuntu =
            ["/usr/sbin/netplan", networkd, "/usr/bin/cloud-init", "/etc/netplan/50-cloud-init.yaml"];
        let seed = [
            "/etc/cloud/cloud.cfg.d/99-esir.cfg",
            "/var/lib/cloud/seed/nocloud/meta-data",
            "/var/lib/cloud/seed/nocloud/user-data",
        ];
        check_network(&ubuntu, "/etc/netplan/60-esir.yaml", &seed).await;
    }

    #[tokio::test]
    async fn a_fedora_like_image_is_configured_by_networkmanager() {
        let fedora =
            [&SERVER[..], &["/usr/sbin/NetworkManager", "/usr/lib/systemd/systemd-networkd"]].concat();
        check_network(&fedora, "/etc/NetworkManager/system-connections/esir.nmconnection", &[]).await;
    }

    #[tokio::test]
    async fn a_path_of_an_overlay_never_leaves_the_system_by_its_own_links() {
        let (root, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (absolute, climbing) = (outside.path(), format!("../../../../..{}", outside.path().display()));
        std::os::unix::fs::symlink(absolute, root.path().join("a")).unwrap();
        std::os::unix::fs::symlink(&climbing, root.path().join("b")).unwrap();
        std::fs::write(outside.path().join("kept"), "kept").unwrap();
        let mut tree = Tree::open(root.path()).unwrap();
        for path in ["/a/x", "/b/x", "/a/kept"] {
            for kind in [StepFileKind::File, StepFileKind::Link, StepFileKind::Folder, StepFileKind::Absent] {
                let step = Step {
                    name: "files".into(),
                    files: vec![StepFile { kind, ..file(path, "hostile") }],
                    ..Step::default()
                };
                // Whether it can be done inside or not: outside nothing happens.
                let _ = follow(&mut tree, root.path(), &[step]).await;
            }
        }
        let left: Vec<_> = std::fs::read_dir(outside.path()).unwrap().flatten().collect();
        assert_eq!(left.len(), 1);
        assert_eq!(std::fs::read(outside.path().join("kept")).unwrap(), b"kept");
    }

    #[tokio::test]
    async fn a_file_of_somebody_who_is_not_there_stops_the_node_with_his_name() {
        let root = tempfile::tempdir().unwrap();
        let mut tree = Tree::open(root.path()).unwrap();
        let step = Step {
            name: "files".into(),
            files: vec![StepFile { owner: "slurm".into(), ..file("/etc/x", "") }],
            ..Step::default()
        };
        let error = follow(&mut tree, root.path(), &[step]).await.unwrap_err().to_string();
        assert!(error.contains("slurm") && error.contains("/etc/x"), "{error}");
    }
}
