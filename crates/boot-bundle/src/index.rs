//! What depmod's `modules.*` files say: names, dependencies, soft dependencies, built-ins, aliases.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use crate::alias::{AliasIndex, normalise_alias};

/// The texts of depmod's files, or of a part of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IndexTexts {
    /// `modules.dep`.
    pub dep: String,
    /// `modules.softdep`.
    pub softdep: String,
    /// `modules.alias`.
    pub alias: String,
    /// `modules.builtin`.
    pub builtin: String,
}

/// The modules of one kernel release.
#[derive(Clone, Debug, Default)]
pub struct ModuleIndex {
    modules: BTreeMap<String, Module>,
    soft: BTreeMap<String, SoftDependencies>,
    builtin: BTreeSet<String>,
    aliases: AliasIndex,
}

#[derive(Clone, Debug)]
struct Module {
    /// Below `/lib/modules/RELEASE`.
    path: String,
    /// Names, in the order of `modules.dep`: the last one loads first.
    dependencies: Vec<String>,
}

#[derive(Clone, Debug, Default)]
struct SoftDependencies {
    pre: Vec<String>,
    post: Vec<String>,
}

/// What an alias or name leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lookup<'a> {
    /// These modules; all of them are to be loaded.
    Modules(Vec<&'a str>),
    /// A driver that is part of the kernel.
    Builtin,
    /// Nothing that this index knows.
    Unknown,
}

/// One module on the way to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadStep<'a> {
    /// Name of the module.
    pub module: &'a str,
    /// Whether the module that was asked for can't do without it. The others may fail.
    pub required: bool,
}

/// The name of a module from its path: `kernel/net/ne2k-pci.ko.xz` is `ne2k_pci`.
#[must_use]
pub fn module_name(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    file.split('.').next().unwrap_or(file).replace('-', "_")
}

impl ModuleIndex {
    /// Reads depmod's files; lines that make no sense are passed over.
    #[must_use]
    pub fn parse(texts: &IndexTexts) -> Self {
        let mut index = Self { aliases: AliasIndex::parse(&texts.alias), ..Self::default() };
        for (path, dependencies) in texts.dep.lines().filter_map(|line| line.split_once(':')) {
            let dependencies = dependencies.split_ascii_whitespace().map(module_name).collect();
            index.modules.insert(module_name(path), Module { path: path.to_owned(), dependencies });
        }
        for line in texts.softdep.lines() {
            index.add_soft_line(line);
        }
        index.builtin = texts.builtin.lines().filter(|line| !line.is_empty()).map(module_name).collect();
        index
    }

    /// `softdep NAME pre: a b post: c`. Several lines of one name add up (kmod takes only the first): loading
    /// one module more does no harm, one less may. Words before `pre:` and `post:` mean nothing to kmod.
    fn add_soft_line(&mut self, line: &str) {
        let mut words = line.split_ascii_whitespace();
        let (Some("softdep"), Some(name)) = (words.next(), words.next()) else { return };
        let soft = self.soft.entry(name.replace('-', "_")).or_default();
        let mut list: Option<&mut Vec<String>> = None;
        for word in words {
            match word {
                "pre:" => list = Some(&mut soft.pre),
                "post:" => list = Some(&mut soft.post),
                _ => {
                    if let Some(list) = &mut list {
                        list.push(word.to_owned());
                    }
                }
            }
        }
    }

    /// What `alias` leads to, in kmod's order: module names first, then aliases, then built-ins.
    #[must_use]
    pub fn lookup(&self, alias: &str) -> Lookup<'_> {
        let Some(folded) = normalise_alias(alias) else { return Lookup::Unknown };
        if let Some((name, _)) = self.modules.get_key_value(&folded) {
            return Lookup::Modules(vec![name]);
        }
        let modules = self.aliases.matches(alias);
        if !modules.is_empty() {
            return Lookup::Modules(modules);
        }
        if self.builtin.contains(&folded) { Lookup::Builtin } else { Lookup::Unknown }
    }

    /// Whether a module of this name is here (an alias may lead to one that is not).
    #[must_use]
    pub fn contains(&self, module: &str) -> bool {
        self.modules.contains_key(module)
    }

    /// Whether a module of this name is part of the kernel.
    #[must_use]
    pub fn is_builtin(&self, module: &str) -> bool {
        self.builtin.contains(module)
    }

    /// Path of a module below `/lib/modules/RELEASE`.
    #[must_use]
    pub fn path(&self, module: &str) -> Option<&str> {
        self.modules.get(module).map(|module| module.path.as_str())
    }

    /// Every module's name and path, sorted by name.
    pub fn modules(&self) -> impl Iterator<Item = (&str, &str)> {
        self.modules.iter().map(|(name, module)| (name.as_str(), module.path.as_str()))
    }

    /// The modules to load for `module`, first to last, each once, itself included: hard dependencies right to
    /// left, every module's soft dependencies around it. `None` if the index lacks `module`.
    #[must_use]
    pub fn load_order(&self, module: &str) -> Option<Vec<LoadStep<'_>>> {
        let (name, entry) = self.modules.get_key_value(module)?;
        let required = entry.dependencies.iter().map(String::as_str).chain([name.as_str()]).collect();
        let mut order =
            LoadOrder { index: self, required, begun: HashSet::new(), listed: HashSet::new(), steps: vec![] };
        order.add_with_dependencies(name);
        Some(order.steps)
    }

    /// `roots` and everything that loading them would load.
    #[must_use]
    pub fn closure<'a>(&'a self, roots: impl IntoIterator<Item = &'a str>) -> BTreeSet<&'a str> {
        let orders = roots.into_iter().filter_map(|root| self.load_order(root));
        orders.flatten().map(|step| step.module).collect()
    }

    /// depmod's files cut down to the modules that are wanted. Built-ins stay whole.
    #[must_use]
    pub fn texts_for(&self, wanted: &BTreeSet<&str>) -> IndexTexts {
        let mut texts = IndexTexts {
            alias: self.aliases.text_for(&|module| wanted.contains(module)),
            ..Default::default()
        };
        for (_, module) in self.modules.iter().filter(|(name, _)| wanted.contains(name.as_str())) {
            let dependencies = module.dependencies.iter().filter_map(|name| self.path(name));
            let words: Vec<&str> = dependencies.collect();
            let gap = if words.is_empty() { "" } else { " " };
            texts.dep.push_str(&format!("{}:{gap}{}\n", module.path, words.join(" ")));
        }
        for (name, soft) in self.soft.iter().filter(|(name, _)| wanted.contains(name.as_str())) {
            for (word, items) in [("pre:", &soft.pre), ("post:", &soft.post)] {
                if !items.is_empty() {
                    texts.softdep.push_str(&format!("softdep {name} {word} {}\n", items.join(" ")));
                }
            }
        }
        for name in &self.builtin {
            texts.builtin.push_str(name);
            texts.builtin.push_str(".ko\n");
        }
        texts
    }

    /// Number of alias patterns.
    #[must_use]
    pub fn alias_count(&self) -> usize {
        self.aliases.len()
    }
}

/// kmod's probe list (`__kmod_module_get_probe_list` in libkmod-module.c), told apart from its walk.
struct LoadOrder<'a> {
    index: &'a ModuleIndex,
    required: HashSet<&'a str>,
    /// Whose dependencies are being walked or were: soft dependencies may go in circles.
    begun: HashSet<&'a str>,
    listed: HashSet<&'a str>,
    steps: Vec<LoadStep<'a>>,
}

impl<'a> LoadOrder<'a> {
    fn add_with_dependencies(&mut self, module: &'a str) {
        if !self.begun.insert(module) {
            return;
        }
        let index = self.index;
        for dependency in
            index.modules.get(module).into_iter().flat_map(|module| module.dependencies.iter().rev())
        {
            self.add(dependency);
        }
        self.add(module);
    }

    fn add(&mut self, module: &'a str) {
        if !self.listed.insert(module) {
            return;
        }
        let soft = self.index.soft.get(module);
        self.add_soft(soft.map(|soft| soft.pre.as_slice()).unwrap_or_default());
        self.steps.push(LoadStep { module, required: self.required.contains(module) });
        self.add_soft(soft.map(|soft| soft.post.as_slice()).unwrap_or_default());
    }

    /// Soft dependencies are names or aliases; those that lead nowhere are left out.
    fn add_soft(&mut self, items: &'a [String]) {
        for item in items {
            if let Lookup::Modules(modules) = self.index.lookup(item) {
                for module in modules {
                    if self.index.contains(module) {
                        self.add_with_dependencies(module);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
