//! Disks of made-up machines.

use std::os::unix::fs::symlink;
use std::path::PathBuf;

use super::*;

struct Machine {
    _directory: tempfile::TempDir,
    root: Root,
}

impl Machine {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::fake(directory.path());
        for path in ["sys/block", "sys/devices", "dev"] {
            std::fs::create_dir_all(root.at(path)).unwrap();
        }
        Self { _directory: directory, root }
    }

    /// A disk of 2 MiB at `path` with these attributes: `queue/x` below the block device, `device/x` below its
    /// device.
    fn add(&self, name: &str, path: &str, attributes: &[(&str, &[u8])]) {
        let device = self.root.at("sys/devices").join(path);
        let block = device.join("block").join(name);
        std::fs::create_dir_all(block.join("queue")).unwrap();
        symlink("../..", block.join("device")).unwrap();
        symlink(&block, self.root.at("sys/block").join(name)).unwrap();
        std::fs::write(block.join("size"), "4096\n").unwrap();
        std::fs::write(block.join("queue/logical_block_size"), "512\n").unwrap();
        for (attribute, value) in attributes {
            let file: PathBuf = match attribute.strip_prefix("device/") {
                Some(attribute) => device.join(attribute),
                None => block.join(attribute),
            };
            std::fs::write(file, value).unwrap();
        }
        let contents = File::create(self.root.at("dev").join(name)).unwrap();
        contents.set_len(2 << 20).unwrap();
    }

    fn only_disk(&self) -> Disk {
        let mut disks = disks_in(&self.root);
        assert_eq!(disks.len(), 1, "{disks:?}");
        disks.remove(0)
    }
}

#[test]
fn a_sata_disk_is_described_in_full() {
    let machine = Machine::new();
    let path = "pci0000:00/0000:00:1f.2/ata1/host0/target0:0:0/0:0:0:0";
    machine.add(
        "sda",
        path,
        &[
            ("device/vpd_pg80", b"\x00\x80\x00\x14QM00001             "),
            ("device/wwid", b"t10.ATA     QEMU HARDDISK   QM00001\n"),
            ("device/model", b"QEMU HARDDISK   \n"),
            ("device/type", b"0\n"),
            ("queue/physical_block_size", b"4096\n"),
            ("queue/rotational", b"1\n"),
            ("removable", b"0\n"),
            ("ro", b"0\n"),
        ],
    );
    let expected = Disk {
        name: "sda".into(),
        path: path.into(),
        serial: Some("QM00001".into()),
        wwn: Some("t10.ATA QEMU HARDDISK QM00001".into()),
        model: Some("QEMU HARDDISK".into()),
        size_bytes: 2 << 20,
        logical_sector_bytes: 512,
        physical_sector_bytes: 4096,
        rotational: true,
        transport: Transport::Ata,
        ..Disk::default()
    };
    assert_eq!(machine.only_disk(), expected);
}

#[test]
fn nvme_and_virtio_have_their_own_places() {
    let machine = Machine::new();
    let nvme: &[(&str, &[u8])] =
        &[("device/serial", b"N1  \n"), ("wwid", b"eui.0011\n"), ("device/model", b"QEMU NVMe Ctrl\n")];
    machine.add("nvme0n1", "pci0000:00/0000:00:04.0/nvme/nvme0", nvme);
    machine.add("vda", "pci0000:00/0000:00:05.0/virtio1", &[("serial", b"V1")]);
    let disks = disks_in(&machine.root);
    let facts: Vec<_> =
        disks.iter().map(|disk| (disk.transport, disk.serial.as_deref(), disk.wwn.as_deref())).collect();
    assert_eq!(
        facts,
        [(Transport::Nvme, Some("N1"), Some("eui.0011")), (Transport::Virtio, Some("V1"), None)]
    );
}

#[test]
fn usb_and_cards_are_removable_whatever_they_say_and_emmc_is_not() {
    let machine = Machine::new();
    machine.add(
        "sdb",
        "pci0000:00/0000:00:14.0/usb1/1-1/1-1:1.0/host6/target6:0:0/6:0:0:0",
        &[("removable", b"0\n")],
    );
    machine.add("mmcblk0", "pci0000:00/0000:00:06.0/mmc_host/mmc0/mmc0:4567", &[("device/type", b"SD\n")]);
    machine.add("mmcblk1", "pci0000:00/0000:00:07.0/mmc_host/mmc1/mmc1:0001", &[("device/type", b"MMC\n")]);
    let removable: Vec<_> =
        disks_in(&machine.root).into_iter().map(|disk| (disk.name, disk.removable)).collect();
    assert_eq!(removable, [("mmcblk0".into(), true), ("mmcblk1".into(), false), ("sdb".into(), true)]);
}

#[test]
fn what_is_no_disk_is_left_out() {
    let machine = Machine::new();
    let scsi = |number: u32| format!("pci0000:00/0000:00:1f.2/ata{number}/host0/target0:0:0/0:0:0:{number}");
    machine.add("sr0", &scsi(1), &[("device/type", b"5\n")]);
    machine.add("sdx", &scsi(2), &[("size", b"0\n")]);
    machine.add("sdy", &scsi(3), &[("device/type", b"13\n")]);
    machine.add("nvme0c0n1", "pci0000:00/0000:00:04.0/nvme/nvme0", &[("hidden", b"1\n")]);
    machine.add("mmcblk0boot0", "pci0000:00/0000:00:07.0/mmc_host/mmc1/mmc1:0001", &[]);
    std::fs::create_dir_all(machine.root.at("sys/block/loop0")).unwrap();
    std::fs::write(machine.root.at("sys/block/loop0/size"), "8\n").unwrap();
    assert_eq!(disks_in(&machine.root), []);
}

#[test]
fn what_is_on_a_disk_is_told_and_an_unreadable_disk_is_not_blank() {
    let machine = Machine::new();
    machine.add("vda", "pci0000:00/0000:00:05.0/virtio1", &[]);
    std::fs::write(machine.root.at("dev/vda"), [b"XFSB".to_vec(), vec![0; 2 << 20]].concat()).unwrap();
    assert_eq!(machine.only_disk().signatures, ["xfs"]);
    std::fs::write(machine.root.at("dev/vda"), "short").unwrap();
    assert_eq!(machine.only_disk().signatures, ["unreadable"]);
}
