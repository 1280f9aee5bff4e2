//! The agent as `/sbin/modprobe`: the kernel runs it for file systems, character sets, ciphers and PHYs.

use std::ffi::OsString;

use boot_bundle::Lookup;

use super::arguments::ModuleArguments;
use super::catalog::{Catalog as _, InitrdCatalog};
use super::loader::why;
use super::root::Root;

/// Loads what the last argument, a module or an alias, leads to, if the initrd has it; 0 if that is loaded
/// afterwards. `arguments` begin with the program's name; options are passed over. Says nothing: the kernel
/// asks for many things that nobody has.
pub(crate) fn modprobe(arguments: &[OsString]) -> i32 {
    let Some(name) = wanted(arguments) else { return 1 };
    i32::from(!load(&Root::real(), &name))
}

fn wanted(arguments: &[OsString]) -> Option<String> {
    let mut words = arguments.iter().skip(1).map(|word| word.to_string_lossy());
    words.rfind(|word| !word.starts_with('-')).map(std::borrow::Cow::into_owned)
}

fn load(root: &Root, name: &str) -> bool {
    let Ok(catalog) = InitrdCatalog::open(root) else { return false };
    let modules = match catalog.index().lookup(name) {
        Lookup::Builtin => return true,
        Lookup::Unknown => return root.has_module(&name.replace('-', "_")),
        Lookup::Modules(modules) => modules,
    };
    let command_line = std::fs::read_to_string(root.at("proc/cmdline")).unwrap_or_default();
    let arguments = ModuleArguments::parse(&command_line);
    modules.into_iter().all(|module| load_with_dependencies(root, &catalog, &arguments, module))
}

fn load_with_dependencies(
    root: &Root,
    catalog: &InitrdCatalog,
    arguments: &ModuleArguments,
    module: &str,
) -> bool {
    let steps = catalog.index().load_order(module).unwrap_or_default();
    let mut complete = !steps.is_empty();
    for step in steps.into_iter().filter(|step| !root.has_module(step.module)) {
        let result = catalog.module(step.module, None).and_then(|image| {
            let inserted = crate::sys::modules::insert(&image, arguments.parameters(step.module));
            inserted.map_err(|error| anyhow::anyhow!("{}: {}", step.module, why(error)))
        });
        if result.is_err() && step.required {
            complete = false;
        }
    }
    complete
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(line: &str, expected: Option<&str>) {
        let arguments: Vec<OsString> = line.split(' ').map(OsString::from).collect();
        assert_eq!(wanted(&arguments).as_deref(), expected, "{line}");
    }

    #[test]
    fn the_kernels_way_of_asking_is_understood() {
        check("/sbin/modprobe -q -- fs-ext4", Some("fs-ext4"));
        check("/init -q -- nls_cp437", Some("nls_cp437"));
        check("modprobe", None);
    }
}
