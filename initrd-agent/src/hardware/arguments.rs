//! What the kernel command line says of modules.

use std::collections::{BTreeMap, BTreeSet};

/// `module.parameter=value` and `modprobe.blacklist=a,b`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ModuleArguments {
    parameters: BTreeMap<String, String>,
    blacklist: BTreeSet<String>,
}

impl ModuleArguments {
    /// Reads a kernel command line; a value with spaces stands in double quotes.
    pub(crate) fn parse(command_line: &str) -> Self {
        let mut arguments = Self::default();
        let mut quoted = false;
        let words = command_line.trim().split(|character: char| {
            quoted ^= character == '"';
            character.is_ascii_whitespace() && !quoted
        });
        for word in words {
            let (name, value) =
                word.split_once('=').map_or((word, None), |(name, value)| (name, Some(value)));
            let Some((module, parameter)) = name.split_once('.') else { continue };
            let module = module.replace('-', "_");
            if (module.as_str(), parameter) == ("modprobe", "blacklist") {
                let names = value.unwrap_or_default().split(',').filter(|name| !name.is_empty());
                arguments.blacklist.extend(names.map(|name| name.replace('-', "_")));
                continue;
            }
            let text = arguments.parameters.entry(module).or_default();
            if !text.is_empty() {
                text.push(' ');
            }
            text.push_str(parameter);
            if let Some(value) = value {
                text.push('=');
                text.push_str(value);
            }
        }
        arguments
    }

    /// The parameters of a module as the kernel takes them.
    pub(crate) fn parameters(&self, module: &str) -> &str {
        self.parameters.get(module).map_or("", String::as_str)
    }

    /// Whether devices must not bring this module in. Other modules may still need it, as with udev.
    pub(crate) fn is_blacklisted(&self, module: &str) -> bool {
        self.blacklist.contains(module)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_and_blacklist_are_found() {
        let line = "initrd=x quiet esir.server=1:2 e1000e.IntMode=1 e1000e.debug modprobe.blacklist=nouveau,am53c974 \
                    foo-bar.text=\"a b\" console=ttyS0\n";
        let arguments = ModuleArguments::parse(line);
        assert_eq!(arguments.parameters("e1000e"), "IntMode=1 debug");
        assert_eq!(arguments.parameters("foo_bar"), "text=\"a b\"");
        assert_eq!(arguments.parameters("ahci"), "");
        assert!(arguments.is_blacklisted("am53c974") && !arguments.is_blacklisted("ahci"));
    }
}
