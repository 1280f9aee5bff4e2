//! fstab(5).

/// One file system that the system mounts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FstabLine {
    /// What: `UUID=...`, `LABEL=...`, `/dev/...`, ...
    pub what: String,
    /// Where, with a leading `/`.
    pub place: String,
    /// `ext4`, `vfat`, `auto`, ...
    pub kind: String,
    /// Its options.
    pub options: Vec<String>,
}

impl FstabLine {
    /// The value of option `name=value`.
    #[must_use]
    pub fn option(&self, name: &str) -> Option<&str> {
        self.options.iter().rev().find_map(|option| option.strip_prefix(name)?.strip_prefix('='))
    }
}

/// The lines that mount something at a path; what is no such line is left out, as mount(8) does.
#[must_use]
pub fn parse_fstab(bytes: &[u8]) -> Vec<FstabLine> {
    let text = String::from_utf8_lossy(bytes);
    let parse = |line: &str| {
        let mut fields = line.split_whitespace();
        let what = fields.next().filter(|what| !what.starts_with('#'))?;
        let place = unescape(fields.next()?);
        let (kind, options) = (fields.next()?, fields.next().unwrap_or("defaults"));
        place.starts_with('/').then(|| FstabLine {
            what: unescape(what).replace('"', ""),
            place,
            kind: kind.to_owned(),
            options: options.split(',').map(str::to_owned).collect(),
        })
    };
    text.lines().filter_map(parse).collect()
}

/// `\040` is a blank.
fn unescape(text: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .iter()
        .fold(text.to_owned(), |text, (escape, character)| text.replace(escape, character))
}

#[cfg(test)]
mod tests {
    use super::parse_fstab;

    #[test]
    fn lines_of_real_images() {
        let text =
            b"# /etc/fstab\nLABEL=cloudimg-rootfs\t/\t ext4\tdiscard,commit=30,errors=remount-ro\t0 1\n\
            UUID=\"x\" /my\\040data btrfs subvol=@home,ro\n/swap none swap sw 0 0\nbroken\n";
        let lines = parse_fstab(text);
        assert_eq!(lines.len(), 2);
        assert_eq!((lines[0].what.as_str(), lines[0].place.as_str()), ("LABEL=cloudimg-rootfs", "/"));
        assert_eq!(lines[0].option("commit"), Some("30"));
        assert_eq!((lines[1].what.as_str(), lines[1].place.as_str()), ("UUID=x", "/my data"));
        assert_eq!(lines[1].option("subvol"), Some("@home"));
    }
}
