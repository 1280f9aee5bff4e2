//! The forms that a system can be kept in, each as the command that people would use.

use std::fmt;

/// Levels of zstd that are compared.
const LEVELS: [u8; 3] = [3, 9, 19];

/// What a form is made from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    Tree,
    Disk,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Ours, of files.
    Files,
    Tar,
    Squashfs,
    /// Ours, of a partition.
    Partition,
    Partclone,
    Raw,
    Qcow2,
}

/// A kind at a level of compression, if it has one to choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Form {
    pub(super) kind: Kind,
    pub(super) level: Option<u8>,
}

/// All that are compared, those beside each other whose times are.
pub(super) fn all(quick: bool) -> Vec<Form> {
    let mut forms = Vec::new();
    for level in LEVELS.into_iter().filter(|level| !quick || *level == 3) {
        for kind in [Kind::Files, Kind::Tar, Kind::Squashfs, Kind::Partition, Kind::Partclone, Kind::Raw] {
            forms.push(Form { kind, level: Some(level) });
        }
    }
    forms.push(Form { kind: Kind::Qcow2, level: None });
    forms
}

impl Kind {
    pub(super) const fn source(self) -> Source {
        match self {
            Self::Files | Self::Tar | Self::Squashfs => Source::Tree,
            Self::Partition | Self::Partclone | Self::Raw | Self::Qcow2 => Source::Disk,
        }
    }
}

impl Form {
    /// Whether its time is compared, so that once is not enough. At level 19 nothing but the compressor counts.
    pub(super) fn repeats(self) -> bool {
        matches!(self.kind, Kind::Files | Kind::Tar) && self.level != Some(19)
    }

    /// For bash: `$1` is the tree or the disk, `$2` the file to make. All end when that is on the disk.
    pub(super) fn script(self) -> String {
        let level = self.level.unwrap_or_default();
        let zstd = format!("zstd -q -T0 -{level} -o \"$2\"");
        let command = match self.kind {
            Kind::Files => {
                format!("\"$IMAGE_TOOLS\" capture \"$1\" -o \"$2\" --level {level} --no-default-excludes")
            }
            Kind::Tar => format!(
                "tar --format=posix --numeric-owner --xattrs '--xattrs-include=*' --acls --sparse --sort=name \
                 --pax-option=delete=atime,delete=ctime -C \"$1\" -cf - . | {zstd}"
            ),
            Kind::Squashfs => format!(
                "mksquashfs \"$1\" \"$2\" -quiet -no-progress -comp zstd -Xcompression-level {level} -b 1M"
            ),
            Kind::Partition => {
                format!("\"$IMAGE_TOOLS\" capture --partition \"$1\" -o \"$2\" --level {level}")
            }
            Kind::Partclone => {
                format!("partclone.ext4 -c -q -L \"$2.log\" -s \"$1\" -o - 2>\"$2.said\" | {zstd}")
            }
            Kind::Raw => format!("{zstd} <\"$1\""),
            Kind::Qcow2 => {
                "qemu-img convert -c -o compression_type=zstd -f raw -O qcow2 \"$1\" \"$2\"".to_owned()
            }
        };
        format!("set -o pipefail; {command} && sync \"$2\"")
    }
}

impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.kind {
            Kind::Files => "files",
            Kind::Tar => "tar",
            Kind::Squashfs => "squashfs",
            Kind::Partition => "partition",
            Kind::Partclone => "partclone",
            Kind::Raw => "raw",
            Kind::Qcow2 => "qcow2",
        };
        match self.level {
            Some(level) => write!(f, "{name}-{level}"),
            None => f.write_str(name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_has_a_name_of_its_own() {
        let mut names: Vec<String> = all(false).iter().map(Form::to_string).collect();
        assert_eq!(names.len(), 19);
        names.sort();
        names.dedup();
        assert_eq!(names.len(), 19);
        assert_eq!(all(true).len(), 7);
    }
}
