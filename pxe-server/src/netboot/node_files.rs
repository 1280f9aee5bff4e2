//! What TFTP serves: boot programs for firmware; for GRUB also each node's configuration, kernel, initrd and the
//! files of menus, because a signed GRUB often has nothing but TFTP.

use std::net::Ipv4Addr;
use std::sync::Arc;

use axum::body::Bytes;

use super::boot_files::{BootPrograms, GRUB, first_loader};
use super::http::{BootObject, Objects, Scripts};
use super::menu_files::MenuFiles;
use super::policy::BootPolicy;
use super::tftp::FileSource;

/// Everything that has a name.
pub(super) struct NodeFiles {
    pub(super) programs: BootPrograms,
    pub(super) policy: Arc<dyn BootPolicy>,
    pub(super) scripts: Arc<Scripts>,
    pub(super) objects: Arc<Objects>,
    pub(super) files: Arc<MenuFiles>,
}

impl FileSource for NodeFiles {
    fn open(&self, name: &str, node: Ipv4Addr) -> Option<Bytes> {
        if let Some(program) = self.programs.get(name) {
            if name == GRUB {
                self.policy.saw_shim_run(node);
            }
            return Some(program);
        }
        if let Some(file) = name.strip_prefix("files/") {
            let own = self.policy.menu_files().and_then(|all| self.files.open(&all, file).ok());
            return own.map(|(bytes, _)| bytes).or_else(|| self.scripts.named(name, node).map(Bytes::from));
        }
        if let Some(config) = self.scripts.named(name, node) {
            return Some(config.into());
        }
        let (bundle, file) = name.strip_prefix("boot/")?.split_once('/')?;
        self.objects.get(&*self.policy, bundle, BootObject::from_name(file)?).ok()
    }

    fn sent(&self, name: &str, node: Ipv4Addr) {
        if let Some(what) = first_loader(name) {
            self.policy.saw_fetched(node, what);
        }
    }
}
