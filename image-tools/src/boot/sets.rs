//! Which modules go into the initrd and which into the store.
//!
//! Chosen by where they lie in the kernel's tree, never by model: a new driver of the same kind is in without
//! an edit.

use boot_bundle::ModuleIndex;

/// Every network driver for a card in a slot or a virtual machine, and what its PHY needs. A PHY driver that
/// is missing leaves the card dead, and no alias of the card names it.
const NIC_DIRECTORIES: [&str; 7] = [
    "kernel/drivers/net/ethernet/",
    "kernel/drivers/net/phy/",
    "kernel/drivers/net/mdio/",
    "kernel/drivers/net/pcs/",
    "kernel/drivers/net/vmxnet3/",
    "kernel/drivers/net/hyperv/",
    "kernel/drivers/net/bonding/",
];

/// Single modules that a network needs: para-virtual cards, the buses before them, VLANs.
const NIC_MODULES: [&str; 9] = [
    "virtio_net",
    "virtio_pci",
    "virtio_mmio",
    "hv_vmbus",
    "pci_hyperv",
    "xen_netfront",
    "8021q",
    "mdio",
    "mii",
];

/// What deploying needs beyond the network: disks and their controllers, RAID, file systems and what the
/// kernel asks for when it mounts them, watchdogs. No graphics, sound, wireless, input.
const DEPLOY_DIRECTORIES: [&str; 39] = [
    "kernel/arch/x86/crypto/",
    "kernel/crypto/",
    "kernel/lib/",
    "kernel/drivers/ata/",
    "kernel/drivers/block/",
    "kernel/drivers/cdrom/",
    "kernel/drivers/char/hw_random/",
    "kernel/drivers/dca/",
    "kernel/drivers/hv/",
    "kernel/drivers/md/",
    "kernel/drivers/message/fusion/",
    "kernel/drivers/misc/cardreader/",
    "kernel/drivers/mmc/",
    "kernel/drivers/nvme/host/",
    "kernel/drivers/nvme/common/",
    "kernel/drivers/pci/",
    "kernel/drivers/scsi/",
    "kernel/drivers/ufs/",
    "kernel/drivers/usb/common/",
    "kernel/drivers/usb/core/",
    "kernel/drivers/usb/host/",
    "kernel/drivers/usb/storage/",
    "kernel/drivers/virtio/",
    "kernel/drivers/watchdog/",
    "kernel/drivers/xen/",
    "kernel/fs/btrfs/",
    "kernel/fs/efivarfs/",
    "kernel/fs/exfat/",
    "kernel/fs/ext4/",
    "kernel/fs/f2fs/",
    "kernel/fs/fat/",
    "kernel/fs/isofs/",
    "kernel/fs/jbd2/",
    "kernel/fs/nls/",
    "kernel/fs/overlayfs/",
    "kernel/fs/squashfs/",
    "kernel/fs/udf/",
    "kernel/fs/xfs/",
    "kernel/drivers/dma/ioat/",
];

/// In those directories, but no use to a node that is being installed: test drivers, consoles, and drives that
/// are never chosen but take seconds to probe (floppy, CD). Names that begin so.
const LEFT_OUT: [&str; 7] =
    ["scsi_debug", "null_blk", "pata_legacy", "test_", "virtio_input", "floppy", "sr_mod"];

/// The modules that the initrd begins from: network only. Dependencies are not in it yet.
pub(super) fn nic_roots(index: &ModuleIndex) -> Vec<&str> {
    select(index, |name, path| lies_in(path, &NIC_DIRECTORIES) || NIC_MODULES.contains(&name))
}

/// The modules that the store begins from: everything that deploying may need, the network's included.
pub(super) fn store_roots(index: &ModuleIndex) -> Vec<&str> {
    let mut roots = nic_roots(index);
    roots.extend(select(index, |_, path| lies_in(path, &DEPLOY_DIRECTORIES)));
    roots
}

fn select(index: &ModuleIndex, wanted: impl Fn(&str, &str) -> bool) -> Vec<&str> {
    let left_out = |name: &str| LEFT_OUT.iter().any(|start| name.starts_with(start));
    let modules = index.modules().filter(|(name, path)| wanted(name, path) && !left_out(name));
    modules.map(|(name, _)| name).collect()
}

fn lies_in(path: &str, directories: &[&str]) -> bool {
    directories.iter().any(|directory| path.starts_with(directory))
}

#[cfg(test)]
mod tests {
    use super::*;
    use boot_bundle::IndexTexts;

    #[test]
    fn network_first_storage_later_and_usb_network_never() {
        let dep = "kernel/drivers/net/ethernet/intel/e1000/e1000.ko:\n\
            kernel/drivers/net/phy/realtek.ko:\n\
            kernel/drivers/net/usb/cdc_ether.ko:\n\
            kernel/drivers/net/wireless/ath/ath.ko:\n\
            kernel/drivers/net/virtio_net.ko: kernel/drivers/net/net_failover.ko\n\
            kernel/drivers/net/net_failover.ko:\n\
            kernel/drivers/ata/ahci.ko:\n\
            kernel/drivers/scsi/scsi_debug.ko:\n\
            kernel/drivers/gpu/drm/i915/i915.ko:\n";
        let index = ModuleIndex::parse(&IndexTexts { dep: dep.into(), ..Default::default() });
        let nics = nic_roots(&index);
        assert_eq!(nics, ["e1000", "realtek", "virtio_net"]);
        assert!(index.closure(nics).contains("net_failover"));
        assert_eq!(store_roots(&index), ["e1000", "realtek", "virtio_net", "ahci"]);
    }
}
