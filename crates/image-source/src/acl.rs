//! POSIX ACLs in the text form that tar archives carry (`SCHILY.acl.*`) <-> the kernel's binary form
//! (`system.posix_acl_*`, linux/posix_acl_xattr.h).

use crate::error::{At, Result, malformed, unsupported};

const VERSION: u32 = 2;
const USER_OBJ: u16 = 1;
const USER: u16 = 2;
const GROUP_OBJ: u16 = 4;
const GROUP: u16 = 8;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;
const NO_ID: u32 = u32::MAX;

/// The binary form of `text`; `None` if it says no more than a mode does.
pub(crate) fn parse(text: &str) -> Result<Option<Vec<u8>>> {
    let mut entries = Vec::new();
    for entry in text.split([',', '\n']).map(str::trim).filter(|entry| !entry.is_empty()) {
        entries.push(parse_entry(entry).at(|| format!("the ACL entry {entry:?}"))?);
    }
    entries.sort_unstable();
    if entries.iter().all(|(tag, ..)| [USER_OBJ, GROUP_OBJ, OTHER].contains(tag)) {
        return Ok(None);
    }
    let mut bytes = VERSION.to_le_bytes().to_vec();
    for (tag, id, permissions) in entries {
        bytes.extend_from_slice(&tag.to_le_bytes());
        bytes.extend_from_slice(&permissions.to_le_bytes());
        bytes.extend_from_slice(&id.to_le_bytes());
    }
    Ok(Some(bytes))
}

/// The text form of what the kernel stores, with numbers for names; `None` if it is not what the kernel stores.
#[must_use]
pub fn acl_text(value: &[u8]) -> Option<String> {
    let (version, entries) = value.split_first_chunk()?;
    if u32::from_le_bytes(*version) != VERSION || entries.len() % 8 != 0 {
        return None;
    }
    let entry = |bytes: &[u8]| {
        let [a, b, c, d, id @ ..] = *bytes.first_chunk::<8>()?;
        let (tag, permissions) = (u16::from_le_bytes([a, b]), u16::from_le_bytes([c, d]));
        let id = u32::from_le_bytes(id);
        let who = match tag {
            USER_OBJ => "user:".to_owned(),
            USER => format!("user:{id}"),
            GROUP_OBJ => "group:".to_owned(),
            GROUP => format!("group:{id}"),
            MASK => "mask:".to_owned(),
            OTHER => "other:".to_owned(),
            _ => return None,
        };
        let letter = |bit, letter| if permissions & bit == 0 { '-' } else { letter };
        Some(format!("{who}:{}{}{}", letter(4, 'r'), letter(2, 'w'), letter(1, 'x')))
    };
    let entries: Option<Vec<String>> = entries.chunks(8).map(entry).collect();
    Some(entries?.join(","))
}

/// `user:lisa:rw-:1000`, `user:1000:rw-`, `user::rwx`, `mask::r--`.
fn parse_entry(entry: &str) -> Result<(u16, u32, u16)> {
    let fields: Vec<&str> = entry.split(':').collect();
    let (kind, who, permissions, number) = match fields.as_slice() {
        [kind, who, permissions] => (*kind, *who, *permissions, *who),
        [kind, who, permissions, number] => (*kind, *who, *permissions, *number),
        _ => return Err(malformed("has not three or four fields")),
    };
    let tag = match (kind, who.is_empty()) {
        ("user" | "u", true) => USER_OBJ,
        ("user" | "u", false) => USER,
        ("group" | "g", true) => GROUP_OBJ,
        ("group" | "g", false) => GROUP,
        ("mask" | "m", _) => MASK,
        ("other" | "o", _) => OTHER,
        _ => return Err(malformed("is of no known kind")),
    };
    let id = if tag == USER || tag == GROUP {
        number.parse().map_err(|_| {
            unsupported("names somebody whose number only the archive's own system knows; use numbers")
        })?
    } else {
        NO_ID
    };
    let mut bits = 0;
    for permission in permissions.chars() {
        bits |= match permission {
            'r' => 4,
            'w' => 2,
            'x' => 1,
            '-' => 0,
            _ => return Err(malformed("has unknown permissions")),
        };
    }
    Ok((tag, id, bits))
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn text_becomes_what_the_kernel_stores() {
        let bytes = parse("user::rw-,user:1000:r-x,group::r--,mask::r-x,other::---").unwrap().unwrap();
        let expected =
            "02000000 01000600ffffffff 02000500e8030000 04000400ffffffff 10000500ffffffff 20000000ffffffff";
        assert_eq!(hex::encode(&bytes), expected.replace(' ', ""));
        let text = "user::rw-,user:1000:r-x,group::r--,mask::r-x,other::---";
        assert_eq!(super::acl_text(&bytes).as_deref(), Some(text));
        assert_eq!(super::acl_text(&bytes[..5]), None);
        assert_eq!(parse("user::rw-\ngroup::r--\nother::---\n").unwrap(), None);
        assert!(parse("user:lisa:rw-:1000,mask::rwx").unwrap().is_some());
        assert!(parse("user:lisa:rw-").is_err());
        assert!(parse("nonsense").is_err());
    }
}
