//! Puts tools of the store and their libraries in place.

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use boot_bundle::{StoreManifest, ToolContent};

use super::catalog::{ObjectSource, fetch, write_whole};
use super::root::Root;

/// Installs the tool `name` below `root` and says where its program is. Files that are there already, from
/// another tool or an earlier try, are left alone.
pub(crate) fn install(
    root: &Root,
    manifest: &StoreManifest,
    name: &str,
    objects: &dyn ObjectSource,
) -> Result<PathBuf> {
    let tool =
        manifest.tool(name).with_context(|| format!("the boot bundle has no tool {name}; build it again"))?;
    for file in &tool.files {
        let path = root.at(&file.path);
        if path.symlink_metadata().is_ok() {
            continue;
        }
        match &file.content {
            ToolContent::File(object) => {
                let contents = fetch(objects, object).with_context(|| format!("fetching /{}", file.path))?;
                // The program may be started as soon as it has its name, so it gets its mode before.
                let fresh = path.with_extension("fresh");
                write_whole(&fresh, &contents)?;
                std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(file.mode))
                    .and_then(|()| std::fs::rename(&fresh, &path))
                    .with_context(|| format!("naming {}", path.display()))?;
            }
            ToolContent::Symlink { symlink } => {
                let directory = path.parent().context("a file lies in a directory")?;
                std::fs::create_dir_all(directory)
                    .with_context(|| format!("making {}", directory.display()))?;
                std::os::unix::fs::symlink(symlink, &path)
                    .with_context(|| format!("linking {}", path.display()))?;
            }
        }
    }
    Ok(root.at("sbin").join(name))
}

#[cfg(test)]
mod tests {
    use boot_bundle::{Tool, ToolFile};

    use super::*;
    use crate::hardware::catalog::fake::FakeStore;

    #[test]
    fn a_tool_is_installed_with_its_libraries_and_names() {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::fake(directory.path());
        let mut objects = FakeStore::default();
        let program = ToolContent::File(objects.add(b"program"));
        let library = ToolContent::File(objects.add(b"library"));
        let link = ToolContent::Symlink { symlink: "mke2fs".into() };
        let files = vec![
            ToolFile { path: "lib/x86_64-linux-gnu/libc.so.6".into(), mode: 0o755, content: library },
            ToolFile { path: "sbin/mke2fs".into(), mode: 0o755, content: program },
            ToolFile { path: "sbin/mkfs.ext4".into(), mode: 0o777, content: link },
        ];
        let hash = objects.fill("", "", &[], vec![Tool { name: "mke2fs".into(), files }]);
        let manifest = StoreManifest::parse(&objects.fetch(&hash).unwrap()).unwrap();
        for _ in 0..2 {
            let place = install(&root, &manifest, "mke2fs", &objects).unwrap();
            assert_eq!(place, root.at("sbin/mke2fs"));
        }
        let mode = std::fs::metadata(root.at("sbin/mke2fs")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o755);
        assert_eq!(std::fs::read(root.at("sbin/mkfs.ext4")).unwrap(), b"program");
        assert!(install(&root, &manifest, "parted", &objects).is_err());
        assert_eq!(std::fs::read_dir(root.at("sbin")).unwrap().count(), 2);
    }
}
