//! What the kernel's log says of firmware that it did not find.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;

use nix::libc;

use super::root::Root;

/// A record of `/dev/kmsg` is at most this long.
const RECORD_BYTES_MAX: usize = 8 << 10;

/// The log's ring holds fewer records than this.
const RECORDS_MAX: usize = 100_000;

/// A device that asked for a firmware file which nobody has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MissingFirmware {
    /// Name of the device on its bus, such as `0000:00:05.0`.
    pub(crate) device: String,
    /// Path below `/lib/firmware`.
    pub(crate) file: String,
}

/// All that the log names, each once.
pub(crate) fn missing_firmware(root: &Root) -> Vec<MissingFirmware> {
    let mut missing = Vec::new();
    let open = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(root.at("dev/kmsg"));
    let Ok(mut log) = open else { return missing };
    let mut buffer = [0; RECORD_BYTES_MAX];
    for _ in 0..RECORDS_MAX {
        match log.read(&mut buffer) {
            Ok(0) => break,
            Ok(length) => {
                let record = String::from_utf8_lossy(buffer.get(..length).unwrap_or_default());
                let found = record.lines().filter_map(parse_line);
                for entry in found {
                    if !missing.contains(&entry) {
                        missing.push(entry);
                    }
                }
            }
            // Records were overwritten before we came; the next read goes on behind the gap.
            Err(error)
                if error.raw_os_error() == Some(libc::EPIPE) || error.kind() == ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    missing
}

/// `e100 0000:00:05.0: Direct firmware load for e100/x.bin failed with error -2`, or as Debian words it,
/// `e100 0000:00:05.0: firmware: failed to load e100/x.bin (-2)`.
fn parse_line(line: &str) -> Option<MissingFirmware> {
    let text = line.split_once(';').map_or(line, |(_, text)| text);
    let (head, rest) = [": Direct firmware load for ", ": firmware: failed to load "]
        .iter()
        .find_map(|phrase| text.split_once(phrase))?;
    let device = head.rsplit(' ').next()?.to_owned();
    let file = rest.split(' ').next()?.to_owned();
    Some(MissingFirmware { device, file })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(line: &str, expected: Option<(&str, &str)>) {
        let expected =
            expected.map(|(device, file)| MissingFirmware { device: device.into(), file: file.into() });
        assert_eq!(parse_line(line), expected, "{line}");
    }

    #[test]
    fn both_wordings_are_understood_and_others_are_not() {
        check(
            "4,812,3920134,-;e100 0000:00:05.0: firmware: failed to load e100/d102e_ucode.bin (-2)",
            Some(("0000:00:05.0", "e100/d102e_ucode.bin")),
        );
        check(
            "4,1,2,-;bnx2 0000:01:00.0: Direct firmware load for bnx2/x.fw failed with error -2",
            Some(("0000:01:00.0", "bnx2/x.fw")),
        );
        check("6,1,2,-;e1000: Intel(R) PRO/1000 Network Driver", None);
        check("", None);
    }

    #[test]
    fn a_log_is_read_to_its_end() {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::fake(directory.path());
        assert_eq!(missing_firmware(&root), []);
        std::fs::create_dir_all(root.at("dev")).unwrap();
        let line = "4,1,2,-;a 0:0: firmware: failed to load x.bin (-2)\n";
        std::fs::write(root.at("dev/kmsg"), [line, line].concat()).unwrap();
        assert_eq!(missing_firmware(&root).len(), 1);
    }
}
