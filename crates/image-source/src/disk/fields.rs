//! Numbers at places in bytes; what lies outside is 0, which every reader here takes for "nothing".

pub(super) fn le16(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..).and_then(|bytes| bytes.first_chunk()).map_or(0, |bytes| u16::from_le_bytes(*bytes))
}

pub(super) fn le32(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(|bytes| bytes.first_chunk()).map_or(0, |bytes| u32::from_le_bytes(*bytes))
}

pub(super) fn le64(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..).and_then(|bytes| bytes.first_chunk()).map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

pub(super) fn be32(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(|bytes| bytes.first_chunk()).map_or(0, |bytes| u32::from_be_bytes(*bytes))
}

pub(super) fn be64(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..).and_then(|bytes| bytes.first_chunk()).map_or(0, |bytes| u64::from_be_bytes(*bytes))
}

/// 16 bytes as a GUID is written: its first three fields are little endian (UEFI specification, appendix A).
pub(super) fn guid(bytes: &[u8], at: usize) -> String {
    let (a, b, c) = (le32(bytes, at), le16(bytes, at + 4), le16(bytes, at + 6));
    let rest = hex::encode(bytes.get(at + 8..at + 16).unwrap_or_default());
    let (d, e) = rest.split_at_checked(4).unwrap_or_default();
    format!("{a:08x}-{b:04x}-{c:04x}-{d}-{e}")
}

/// 16 bytes as file systems write a UUID: in their order.
pub(super) fn uuid(bytes: &[u8], at: usize) -> String {
    let text = hex::encode(bytes.get(at..at + 16).unwrap_or_default());
    let part = |from, to| text.get(from..to).unwrap_or_default();
    [part(0, 8), part(8, 12), part(12, 16), part(16, 20), part(20, 32)].join("-")
}

/// Text up to a zero byte, without what cannot be printed.
pub(super) fn label(bytes: &[u8], at: usize, len: usize) -> String {
    let bytes = bytes.get(at..at + len).unwrap_or_default();
    let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
    let text = String::from_utf8_lossy(bytes.get(..end).unwrap_or_default());
    text.trim_end().chars().filter(|character| !character.is_control()).collect()
}
