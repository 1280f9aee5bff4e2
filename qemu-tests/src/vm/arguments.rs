//! The words of QEMU's command line.

use std::path::PathBuf;

use node_api::FirmwareKind;

use super::{MachineSpec, Nic, OVMF_CODE, OVMF_SECURE_CODE};
use crate::disk::{Bus, DiskSpec};

/// Where a machine's files and network end are.
#[derive(Clone, Debug)]
pub struct Wiring {
    /// Directory of its files.
    pub dir: PathBuf,
    /// Tap on the lab's bridge.
    pub tap: String,
}

impl Wiring {
    pub(super) fn disk(&self, number: usize) -> PathBuf {
        self.dir.join(format!("disk{number}.raw"))
    }

    pub(super) fn variables(&self) -> PathBuf {
        self.dir.join("variables.fd")
    }

    pub(super) fn console_log(&self) -> PathBuf {
        self.dir.join("console.log")
    }

    pub(super) fn console_socket(&self) -> PathBuf {
        self.dir.join("console.sock")
    }

    pub(super) fn control_socket(&self) -> PathBuf {
        self.dir.join("control.sock")
    }
}

/// All of QEMU's arguments; `pulled` are the numbers of disks that are not plugged in.
pub(super) fn qemu_arguments(spec: &MachineSpec, wiring: &Wiring, pulled: &[usize]) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let mut add = |option: &str, value: String| words.extend([option.to_owned(), value]);
    add("-name", spec.name.clone());
    // Without graphics SeaBIOS shows itself, iPXE and GRUB on the serial port.
    add("-machine", format!("q35,graphics=off{}", if spec.secure_boot { ",smm=on" } else { "" }));
    add("-accel", "tcg,thread=multi".into());
    // QEMU's plain processor has no source of randomness, unlike every server since 2012; without one the
    // installed system waits for it at each start.
    add("-cpu", "qemu64,+rdrand".into());
    add("-m", format!("{}M", spec.memory_mib));
    add("-smp", spec.processors.to_string());
    add("-smbios", smbios(spec));
    add("-display", "none".into());
    add("-chardev", console(wiring));
    add("-serial", "chardev:console".into());
    add("-qmp", format!("unix:{},server=on,wait=off", wiring.control_socket().display()));
    if spec.firmware == FirmwareKind::Uefi {
        let code = if spec.secure_boot { OVMF_SECURE_CODE } else { OVMF_CODE };
        add("-drive", format!("if=pflash,format=raw,unit=0,readonly=on,file={code}"));
        add("-drive", format!("if=pflash,format=raw,unit=1,file={}", wiring.variables().display()));
    }
    if spec.secure_boot {
        // Only code in System Management Mode may write variables, or an operating system could enrol keys.
        add("-global", "driver=cfi.pflash01,property=secure,value=on".into());
        // QUIRK(OVMF): with System Management Mode it stops at its start if the machine can sleep.
        add("-global", "ICH9-LPC.disable_s3=1".into());
    }
    add("-netdev", format!("tap,id=net0,ifname={},script=no,downscript=no", wiring.tap));
    add("-device", network_card(spec));
    for (number, disk) in (0_usize..).zip(&spec.disks).filter(|(number, _)| !pulled.contains(number)) {
        let file = wiring.disk(number).display().to_string();
        add("-drive", format!("if=none,id=disk{number},format=raw,discard=unmap,file={file}"));
        add("-device", format!("{}{}", disk_device(disk, number), boot_index(spec, number + 2)));
    }
    words.push("-nodefaults".into());
    words.extend(spec.words.iter().cloned());
    words
}

/// The serial port is a socket for people and a log for stories.
fn console(wiring: &Wiring) -> String {
    let (socket, log) = (wiring.console_socket(), wiring.console_log());
    let (socket, log) = (socket.display(), log.display());
    format!("socket,id=console,server=on,wait=off,path={socket},logfile={log},logappend=on")
}

fn smbios(spec: &MachineSpec) -> String {
    let (uuid, serial) = (spec.uuid_text(), spec.serial_text());
    format!("type=1,uuid={uuid},serial={serial},manufacturer=QEMU,product=lab")
}

fn network_card(spec: &MachineSpec) -> String {
    let device = match spec.nic {
        Nic::E1000 => "e1000",
        Nic::E1000e => "e1000e",
        Nic::Virtio => "virtio-net-pci",
        Nic::Vmxnet3 => "vmxnet3",
    };
    // OVMF drives virtio-net itself: without a ROM its own PXE code runs, as on most real servers.
    let no_rom = spec.nic == Nic::Virtio && spec.firmware == FirmwareKind::Uefi;
    let rom = if no_rom { ",romfile=" } else { "" };
    format!("{device},netdev=net0,mac={}{}{rom}", spec.mac_text(), boot_index(spec, 1))
}

fn disk_device(disk: &DiskSpec, number: usize) -> String {
    let attached = match disk.bus {
        Bus::Ahci => format!("ide-hd,bus=ide.{number}"),
        Bus::Nvme => "nvme".to_owned(),
        Bus::Nvme4Kn => "nvme,logical_block_size=4096,physical_block_size=4096".to_owned(),
        Bus::VirtioBlk => "virtio-blk-pci".to_owned(),
    };
    format!("{attached},drive=disk{number},serial={}", disk.serial)
}

/// The place in the boot order, for PC BIOS alone unless asked for: UEFI firmware keeps its own order, which the
/// installed system's entry goes into, and a place given here would overrule it at each start.
fn boot_index(spec: &MachineSpec, place: usize) -> String {
    match spec.firmware {
        FirmwareKind::Uefi if !spec.network_first => String::new(),
        FirmwareKind::Bios | FirmwareKind::Uefi => format!(",bootindex={place}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::gib;

    fn spec(firmware: FirmwareKind, nic: Nic, bus: Bus) -> MachineSpec {
        MachineSpec {
            name: "a".into(),
            firmware,
            secure_boot: false,
            nic,
            mac: [0x52, 0x54, 0, 0x77, 0, 1],
            memory_mib: 1536,
            processors: 2,
            disks: vec![DiskSpec { bus, size_bytes: gib(8), serial: "A0".into() }],
            network_first: false,
            words: vec!["-fw_cfg".into(), "name=a,string=b".into()],
        }
    }

    fn machine(firmware: FirmwareKind, nic: Nic, bus: Bus) -> String {
        let spec = spec(firmware, nic, bus);
        let wiring = Wiring { dir: "/lab/a".into(), tap: "tap0".into() };
        qemu_arguments(&spec, &wiring, &[]).join(" ")
    }

    #[test]
    fn a_bios_machine_tries_its_network_card_first() {
        let words = machine(FirmwareKind::Bios, Nic::E1000, Bus::Ahci);
        assert!(words.contains("-device e1000,netdev=net0,mac=52:54:00:77:00:01,bootindex=1 "), "{words}");
        assert!(words.contains("-device ide-hd,bus=ide.0,drive=disk0,serial=A0,bootindex=2"), "{words}");
        assert!(!words.contains("pflash"), "{words}");
    }

    #[test]
    fn a_machine_with_secure_boot_guards_its_variables() {
        let mut spec = spec(FirmwareKind::Uefi, Nic::Virtio, Bus::Nvme);
        spec.secure_boot = true;
        let wiring = Wiring { dir: "/lab/a".into(), tap: "tap0".into() };
        let words = qemu_arguments(&spec, &wiring, &[]).join(" ");
        assert!(words.contains("smm=on") && words.contains("property=secure,value=on"), "{words}");
        assert!(words.contains("OVMF_CODE_4M.ms.fd") && words.contains("romfile= "), "{words}");
    }

    #[test]
    fn a_disk_that_is_pulled_is_not_there_and_the_others_stay_where_they_are() {
        let mut spec = spec(FirmwareKind::Bios, Nic::E1000, Bus::Ahci);
        spec.disks.push(DiskSpec { bus: Bus::Ahci, size_bytes: gib(8), serial: "A1".into() });
        let wiring = Wiring { dir: "/lab/a".into(), tap: "tap0".into() };
        let words = qemu_arguments(&spec, &wiring, &[0]).join(" ");
        assert!(!words.contains("disk0"), "{words}");
        assert!(words.contains("ide-hd,bus=ide.1,drive=disk1,serial=A1,bootindex=3"), "{words}");
    }

    #[test]
    fn a_uefi_machine_has_its_own_variables_and_no_rom_on_virtio() {
        let words = machine(FirmwareKind::Uefi, Nic::Virtio, Bus::Nvme);
        assert!(words.contains("file=/lab/a/variables.fd"), "{words}");
        assert!(words.contains("romfile= ") && !words.contains("bootindex"), "{words}");
        assert!(words.contains("-device nvme,drive=disk0,serial=A0 "), "{words}");
    }
}
