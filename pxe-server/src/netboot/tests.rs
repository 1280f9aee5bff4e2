//! What the tests of this module share, and stories over the real sockets.

use std::fmt::Write as _;
use std::path::Path;

use dhcp_wire::PacketView;

use super::*;

/// Set to anything, tests write what they see instead of comparing; then look at the difference with git.
const REFRESH: &str = "ESIR_REFRESH_GOLDENS";

/// Compares `actual` with the file `goldens/NAME.txt`.
pub(super) fn golden(name: &str, actual: &str) {
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(file!());
    let path = here.with_file_name("goldens").join(format!("{name}.txt"));
    if std::env::var_os(REFRESH).is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        return std::fs::write(&path, actual).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(actual, expected, "{} differs; {REFRESH}=1 writes it anew", path.display());
}

/// A packet for people: its fields, its options, then its bytes.
pub(super) fn describe(bytes: &[u8]) -> String {
    let packet = PacketView::new(bytes).expect("a DHCP packet");
    let mut text = String::new();
    let file = String::from_utf8_lossy(&bytes[108..236]).trim_end_matches('\0').to_owned();
    let (kind, broadcast) = (packet.kind().expect("a kind"), packet.wants_broadcast());
    writeln!(text, "{kind:?} {} xid={:08x} broadcast={broadcast}", packet.mac().unwrap(), packet.xid())
        .unwrap();
    let (ci, yi, si, gi) = (packet.ciaddr(), packet.yiaddr(), packet.siaddr(), packet.giaddr());
    writeln!(text, "ciaddr={ci} yiaddr={yi} siaddr={si} giaddr={gi}").unwrap();
    writeln!(text, "sname={:?} file={file:?}", String::from_utf8_lossy(packet.server_name())).unwrap();
    for (code, value) in packet.options() {
        let hex: String = value.iter().map(|byte| format!("{byte:02x}")).collect();
        let readable =
            value.iter().filter(|byte| byte.is_ascii_graphic()).count() + 1 >= value.len() && value.len() > 4;
        let note = if readable { format!("  {:?}", String::from_utf8_lossy(value)) } else { String::new() };
        writeln!(text, "{code:>3}: {hex}{note}").unwrap();
    }
    writeln!(text, "{} bytes", bytes.len()).unwrap();
    for (number, row) in bytes.chunks(32).enumerate().filter(|(_, row)| row.iter().any(|byte| *byte != 0)) {
        let hex: String = row.iter().map(|byte| format!("{byte:02x}")).collect();
        writeln!(text, "{:04x} {hex}", number * 32).unwrap();
    }
    text
}
