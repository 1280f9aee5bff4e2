//! The part of the site that is about menus: `boot-menu` checks it, here its problems get their lines.

use std::path::{Path, PathBuf};

use boot_menu::{Menus, NodeRule, RawChoice, Sections};
use toml::Spanned;

use crate::check::Checker;
use crate::raw::RawNode;

impl Checker<'_> {
    pub(crate) fn menus(&mut self, sections: Sections, nodes: &[RawNode]) -> Menus {
        // A node with a wrong address is a problem elsewhere.
        let rules = nodes.iter().filter_map(|node| {
            let mac = node.mac.get_ref().parse().ok()?;
            let choice = RawChoice {
                menu: node.menu.clone(),
                boot: node.boot.clone(),
                once: node.once.clone(),
                then: node.then.clone(),
                local: node.local.clone(),
                secure_boot: node.secure_boot,
                vars: node.vars.clone(),
            };
            Some(NodeRule { mac, name: node.name.get_ref().clone(), group: node.group.clone(), choice })
        });
        let (menus, problems) = boot_menu::check(sections, rules.collect());
        for problem in problems {
            self.problem(problem.span, problem.what);
        }
        menus
    }

    pub(crate) fn menu_files(
        &mut self,
        path: Option<Spanned<PathBuf>>,
        base: Option<&Path>,
    ) -> Option<PathBuf> {
        let path = path?;
        let joined = base.map_or_else(|| path.get_ref().clone(), |base| base.join(path.get_ref()));
        if joined.as_os_str().is_empty() {
            self.problem(
                Some(path.span()),
                "boot.menu_files is empty; write a directory, or remove the line",
            );
        }
        Some(joined)
    }
}
