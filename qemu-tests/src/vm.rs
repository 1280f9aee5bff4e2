//! One virtual machine: QEMU with its firmware, NIC, disks, serial console and power button.
//!
//! Never uses KVM: every machine that can run the tests runs them the same way.

mod arguments;
mod qmp;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, Result, bail};
use node_api::FirmwareKind;

use crate::console::Console;
use crate::disk::{Disk, DiskSpec};
use crate::net::Network;
use crate::session::Session;

pub use arguments::Wiring;

/// Firmware code of Debian's package `ovmf`.
pub const OVMF_CODE: &str = "/usr/share/OVMF/OVMF_CODE_4M.fd";
/// Its empty variable store; each machine gets a copy.
pub const OVMF_VARS: &str = "/usr/share/OVMF/OVMF_VARS_4M.fd";
/// The same with Secure Boot, which guards its variables by System Management Mode.
pub const OVMF_SECURE_CODE: &str = "/usr/share/OVMF/OVMF_CODE_4M.ms.fd";
/// Its variable store with Microsoft's keys enrolled and Secure Boot on.
pub const OVMF_SECURE_VARS: &str = "/usr/share/OVMF/OVMF_VARS_4M.ms.fd";
/// A kernel word for emulated processors. They keep what they translated by its place in memory and by its address:
/// where each start of a program has other addresses, the pages of the C library have thousands of translations each.
/// All of them are looked at for every byte that overwrites such a page, as the next kernel does when it unpacks itself
/// there after a reset; seen: 100 bytes a second.
pub(crate) const FIXED_ADDRESSES: &str = "norandmaps";

/// A network card.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nic {
    /// Intel 82540EM; BIOS machines boot from its iPXE ROM.
    E1000,
    /// Intel 82574L.
    E1000e,
    /// virtio-net; under UEFI without a ROM, so that the firmware's own PXE runs.
    Virtio,
    /// `VMware` vmxnet3.
    Vmxnet3,
}

/// What a machine is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MachineSpec {
    /// Name in file names and messages.
    pub name: String,
    /// PC BIOS (`SeaBIOS`) or UEFI (OVMF).
    pub firmware: FirmwareKind,
    /// Whether UEFI starts only what somebody signed whom Microsoft's keys vouch for.
    pub secure_boot: bool,
    /// The card that it boots from.
    pub nic: Nic,
    /// Its hardware address.
    pub mac: [u8; 6],
    /// Main memory, MiB.
    pub memory_mib: u32,
    /// Virtual processors.
    pub processors: u32,
    /// In boot order, after the NIC.
    pub disks: Vec<DiskSpec>,
    /// Under UEFI too the card comes before the disks.
    pub network_first: bool,
    /// More words for QEMU, last on its command line.
    pub words: Vec<String>,
}

impl MachineSpec {
    /// `52:54:00:aa:bb:cc`
    #[must_use]
    pub fn mac_text(&self) -> String {
        self.mac.map(|byte| format!("{byte:02x}")).join(":")
    }

    /// The UUID that its firmware shows. Machines of one board maker differ in it, as real ones do; it follows from
    /// the hardware address.
    #[must_use]
    pub fn uuid_text(&self) -> String {
        format!("4e534953-0000-4000-8000-{}", self.mac_text().replace(':', ""))
    }

    /// The serial number that its firmware shows; it follows from the hardware address too.
    #[must_use]
    pub fn serial_text(&self) -> String {
        format!("ESIR-{}", self.mac_text().replace(':', ""))
    }
}

/// A machine with its files; QEMU runs while the power is on.
#[derive(Debug)]
pub struct Machine {
    spec: MachineSpec,
    wiring: Wiring,
    disks: Vec<Disk>,
    /// Numbers of disks that are not plugged in.
    pulled: Mutex<Vec<usize>>,
    console: Console,
    qemu: Mutex<Option<Child>>,
}

impl Machine {
    /// Makes the machine's disks and tap; the power stays off.
    ///
    /// # Errors
    /// The session's directory cannot be written, or the namespace is gone.
    pub fn new(spec: MachineSpec, session: &Session, network: &Network) -> Result<Self> {
        let dir = session.dir().join(&spec.name);
        fs::create_dir(&dir).with_context(|| format!("making {}", dir.display()))?;
        let wiring = Wiring { tap: network.add_tap()?, dir };
        let disks = (0_usize..).zip(&spec.disks);
        let disks: Result<Vec<_>> =
            disks.map(|(number, disk)| Disk::create(&wiring.disk(number), disk.size_bytes)).collect();
        if spec.firmware == FirmwareKind::Uefi {
            let variables = if spec.secure_boot { OVMF_SECURE_VARS } else { OVMF_VARS };
            fs::copy(variables, wiring.variables()).with_context(|| format!("copying {variables}"))?;
        }
        let console = Console::new(wiring.console_log(), wiring.console_socket());
        Ok(Self { spec, disks: disks?, pulled: Mutex::default(), console, wiring, qemu: Mutex::new(None) })
    }

    /// What it is made of.
    #[must_use]
    pub const fn spec(&self) -> &MachineSpec {
        &self.spec
    }

    /// Its serial console; the log goes on over power cycles.
    #[must_use]
    pub const fn console(&self) -> &Console {
        &self.console
    }

    /// Its disks in the order of the specification.
    #[must_use]
    pub fn disks(&self) -> &[Disk] {
        &self.disks
    }

    /// Takes a disk out; from the next start on it is not there. The others stay where they are.
    ///
    /// # Errors
    /// The machine is on, or has fewer disks.
    pub fn pull_disk(&self, number: usize) -> Result<()> {
        if self.is_on() || number >= self.disks.len() {
            bail!("disk {number} of {} can't be pulled: it is on or has fewer", self.spec.name);
        }
        self.pulled.lock().unwrap_or_else(PoisonError::into_inner).push(number);
        Ok(())
    }

    /// Its port on the network.
    #[must_use]
    pub fn tap(&self) -> &str {
        &self.wiring.tap
    }

    /// Where its sockets, logs and disks lie.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.wiring.dir
    }

    /// Starts QEMU.
    ///
    /// # Errors
    /// It runs already, or QEMU ends at once (its own words are in the error).
    pub fn power_on(&self, session: &Session, network: &Network) -> Result<()> {
        let mut qemu = self.qemu.lock().unwrap_or_else(PoisonError::into_inner);
        if qemu.is_some() {
            bail!("{} is on already", self.spec.name);
        }
        for socket in [self.wiring.console_socket(), self.wiring.control_socket()] {
            let _ = fs::remove_file(socket);
        }
        let errors = self.wiring.dir.join("qemu.log");
        let mut command = network.command("qemu-system-x86_64");
        let pulled = self.pulled.lock().unwrap_or_else(PoisonError::into_inner).clone();
        command.args(arguments::qemu_arguments(&self.spec, &self.wiring, &pulled));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(fs::File::create(&errors)?);
        let mut child = command.spawn().context("starting qemu-system-x86_64")?;
        let listens = qmp::wait_until_listening(&self.wiring.control_socket(), &mut child);
        let known = listens.and_then(|()| session.owns_process(child.id(), &self.spec.name));
        if let Err(error) = known {
            let _ = child.kill();
            let _ = child.wait();
            let words = fs::read_to_string(&errors).unwrap_or_default();
            return Err(error.context(format!("powering on {}: {}", self.spec.name, words.trim())));
        }
        *qemu = Some(child);
        Ok(())
    }

    /// Pulls the plug: QEMU is killed in mid-instruction.
    ///
    /// # Errors
    /// The machine is off.
    pub fn cut_power(&self) -> Result<()> {
        let mut qemu = self.qemu.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(mut child) = qemu.take() else { bail!("{} is off", self.spec.name) };
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// Presses the reset button.
    ///
    /// # Errors
    /// The machine is off.
    pub fn reset(&self) -> Result<()> {
        qmp::execute(&self.wiring.control_socket(), "system_reset")
    }

    /// Whether QEMU runs; it ends by itself when the machine powers off.
    #[must_use]
    pub fn is_on(&self) -> bool {
        let mut qemu = self.qemu.lock().unwrap_or_else(PoisonError::into_inner);
        match qemu.as_mut().map(Child::try_wait) {
            Some(Ok(None)) => true,
            Some(_) => {
                *qemu = None;
                false
            }
            None => false,
        }
    }

    /// A copy of the console's log with the machine's name on every line, for a failed story.
    #[must_use]
    pub fn console_tail(&self, lines: usize) -> String {
        self.console.tail(lines)
    }

    /// The console's socket, for people.
    #[must_use]
    pub fn console_socket(&self) -> PathBuf {
        self.wiring.console_socket()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.cut_power();
    }
}
