//! Disks that boot: the smallest program that says a line, for each firmware.
//!
//! Never holds an operating system: that a disk was booted is all that is to be seen.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use super::Disk;
use crate::command::run;

/// The first sector of a disk; the BIOS loads it whole.
const SECTOR_BYTES: usize = 512;
/// Last two bytes of a sector that the BIOS starts.
const BOOTABLE: [u8; 2] = [0x55, 0xaa];
/// Writes the text behind it to the serial port, byte by byte, and stops. Loaded at 0x7c00.
const SECTOR_CODE: [u8; 35] = [
    0x31, 0xc0, // xor ax, ax
    0x8e, 0xd8, // mov ds, ax
    0xbe, 0x23, 0x7c, // mov si, 0x7c00 + 35: the text
    0xfc, // cld
    0xac, // next: lodsb
    0x84, 0xc0, // test al, al
    0x74, 0x12, // jz stop
    0x88, 0xc4, // mov ah, al
    0xba, 0xfd, 0x03, // mov dx, 0x3fd: line status
    0xec, // wait: in al, dx
    0xa8, 0x20, // test al, 0x20: room for a byte
    0x74, 0xfb, // jz wait
    0x88, 0xe0, // mov al, ah
    0xba, 0xf8, 0x03, // mov dx, 0x3f8: data
    0xee, // out dx, al
    0xeb, 0xe9, // jmp next
    0xfa, // stop: cli
    0xf4, 0xeb, 0xfd, // hlt, and again
];
/// Writes the text behind it to the console with `ConOut->OutputString`, and stops.
const EFI_CODE: [u8; 22] = [
    0x48, 0x83, 0xec, 0x28, // sub rsp, 0x28: room that the callee may use, and alignment
    0x48, 0x8b, 0x4a, 0x40, // mov rcx, [rdx + 0x40]: ConOut of the system table
    0x48, 0x8d, 0x15, 7, 0, 0, 0, // lea rdx, [rip + 7]: the text
    0xff, 0x51, 0x08, // call [rcx + 8]: OutputString
    0xf4, 0xeb, 0xfd, // hlt, and again
    0x90, // the text is of 16-bit characters
];
/// Where firmware looks on a disk of which it knows nothing (UEFI section 3.5.1.1).
const EFI_DEFAULT_PATH: &str = "::/EFI/BOOT/BOOTX64.EFI";
/// Headers of an EFI program, and the page that its code is loaded at.
const HEADERS_BYTES: usize = 512;
const CODE_ADDRESS: u32 = 0x1000;

impl Disk {
    /// Puts a boot sector on the disk that says `text` on the serial port.
    ///
    /// # Errors
    /// The text is too long, or the file cannot be written.
    pub fn boots_on_bios(&self, text: &str) -> Result<()> {
        let mut sector = [&SECTOR_CODE[..], text.as_bytes(), b"\r\n\0"].concat();
        ensure!(sector.len() <= SECTOR_BYTES - BOOTABLE.len(), "a boot sector has no room for `{text}`");
        sector.resize(SECTOR_BYTES - BOOTABLE.len(), 0);
        sector.extend(BOOTABLE);
        let file = OpenOptions::new().write(true).open(self.path())?;
        file.write_all_at(&sector, 0).with_context(|| format!("writing {}", self.path().display()))
    }

    /// Makes the whole disk a FAT file system with a default boot program that says `text` on the console. `dir` is
    /// for what it is made from.
    ///
    /// # Errors
    /// The text is too long, or dosfstools or mtools are missing.
    pub fn boots_on_uefi(&self, text: &str, dir: &Path) -> Result<()> {
        let program = dir.join("program.efi");
        fs::write(&program, efi_program(text)?)?;
        run(Command::new("mkfs.vfat").args(["-F", "32", "-n", "LOCAL"]).arg(self.path()))?;
        // Not mounted: not every kernel that can run machines knows FAT.
        run(Command::new("mmd").arg("-i").arg(self.path()).args(["::/EFI", "::/EFI/BOOT"]))?;
        run(Command::new("mcopy").arg("-i").arg(self.path()).arg(&program).arg(EFI_DEFAULT_PATH))
    }
}

/// A PE32+ program for x64 UEFI with one section and nothing to relocate (UEFI section 2.1.1).
fn efi_program(text: &str) -> Result<Vec<u8>> {
    let mut code = EFI_CODE.to_vec();
    code.extend(format!("{text}\r\n\0").encode_utf16().flat_map(u16::to_le_bytes));
    ensure!(code.len() <= HEADERS_BYTES, "the program has no room for `{text}`");
    let code_bytes = u32::try_from(code.len())?;
    let headers_bytes = u32::try_from(HEADERS_BYTES)?;
    let mut program = b"MZ".to_vec();
    program.resize(0x3c, 0);
    let mut words = |values: &[u32]| values.iter().for_each(|value| program.extend(value.to_le_bytes()));
    // Where the PE header is, and its mark.
    words(&[0x40, u32::from_le_bytes(*b"PE\0\0")]);
    // x64, one section; no time, no symbols; 240 bytes of optional header; an executable without line numbers.
    words(&[0x0001_8664, 0, 0, 0, 0x0206_00f0]);
    // PE32+; size of code, of data; entry and base of the code; image base; alignments in memory and in the file.
    words(&[0x20b, headers_bytes, 0, 0, CODE_ADDRESS, CODE_ADDRESS, 0, 0, CODE_ADDRESS, headers_bytes]);
    // Versions; sizes in memory and of the headers; no checksum; an EFI application.
    words(&[0, 0, 0, 0, 2 * CODE_ADDRESS, headers_bytes, 0, 10]);
    // Stack and heap, which UEFI ignores; no flags; 16 empty directories.
    words(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 16]);
    words(&[0; 32]);
    // The section: name, sizes and places in memory and file, nothing else; code that can be read and run.
    words(&[u32::from_le_bytes(*b".tex"), u32::from_le_bytes(*b"t\0\0\0"), code_bytes, CODE_ADDRESS]);
    words(&[headers_bytes, headers_bytes, 0, 0, 0, 0x6000_0020]);
    program.resize(HEADERS_BYTES, 0);
    code.resize(HEADERS_BYTES, 0);
    program.extend(code);
    Ok(program)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_boot_sector_is_one_sector_with_its_mark_and_the_text() {
        let dir = tempfile::tempdir().unwrap();
        let disk = Disk::create(&dir.path().join("disk"), crate::disk::mib(1)).unwrap();
        disk.boots_on_bios("here").unwrap();
        let sector = fs::read(disk.path()).unwrap();
        assert_eq!((&sector[35..42], &sector[510..514]), (&b"here\r\n\0"[..], &[0x55, 0xaa, 0, 0][..]));
        assert!(disk.boots_on_bios(&"x".repeat(500)).is_err());
    }

    #[test]
    fn an_efi_program_has_its_headers_where_firmware_looks() {
        let program = efi_program("here").unwrap();
        let number = |at: usize| u32::from_le_bytes(program[at..at + 4].try_into().unwrap());
        let header = number(0x3c) as usize;
        assert_eq!(&program[header..header + 4], b"PE\0\0");
        let optional = header + 24;
        assert_eq!((number(header + 20) & 0xffff, number(optional) & 0xffff), (240, 0x20b));
        assert_eq!((number(optional + 16), number(optional + 68)), (CODE_ADDRESS, 10), "entry, subsystem");
        let section = optional + 240;
        assert_eq!(&program[section..section + 5], b".text");
        assert_eq!((number(section + 12), number(section + 20)), (CODE_ADDRESS, 512), "address, place");
        assert_eq!(&program[512 + EFI_CODE.len()..][..4], b"h\0e\0");
        assert!(efi_program(&"x".repeat(300)).is_err());
    }
}
