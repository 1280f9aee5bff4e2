//! The part of the site that is about installed systems: `system-steps` checks it, here its problems get their lines.

use boot_menu::Menus;
use system_steps::{Source, Systems};

use crate::check::Checker;
use crate::raw::RawSite;

impl Checker<'_> {
    pub(crate) fn systems(&mut self, raw: &mut RawSite, menus: &Menus, beside: &dyn Source) -> Systems {
        let variables = menus.variable_names();
        let site = raw.system.take().map(|system| ("default".to_owned(), system));
        let groups = std::mem::take(&mut raw.group_systems);
        let groups = groups.into_iter().map(|(name, system)| (format!("group.{name}"), system));
        let nodes = raw.nodes.iter_mut();
        let nodes =
            nodes.filter_map(|node| Some((format!("node.{}", node.name.get_ref()), node.system.take()?)));
        let mut systems = Systems::default();
        for (rule, system) in site.into_iter().chain(groups).chain(nodes) {
            let checked = system_steps::check(system, &variables, beside);
            for problem in checked.problems {
                self.problem(problem.span, problem.what);
            }
            systems.add(rule, checked.settings);
        }
        systems
    }
}
