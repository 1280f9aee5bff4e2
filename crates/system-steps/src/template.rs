//! Text with `${variables}`; `$${` is a `${` that stays. A `$` before anything else means nothing.

use std::collections::{BTreeMap, BTreeSet};

use boot_menu::{BUILT_IN, is_variable_name};

/// Variables beside those of boot menus and of the site.
const OWN: [&str; 2] = ["domain", "fqdn"];

/// Values of variables.
pub(crate) type Values = BTreeMap<String, String>;

/// Text whose every `${` is closed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Template(Vec<Part>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Variable(String),
}

impl Template {
    /// Reads it; `known` are the variables that some node has. What is wrong and what to write instead.
    pub(crate) fn parse(text: &str, known: &BTreeSet<String>) -> Result<Self, String> {
        let (mut parts, mut rest) = (Vec::new(), text);
        while let Some((before, after)) = rest.split_once("${") {
            if let Some(before) = before.strip_suffix('$') {
                parts.push(Part::Text(format!("{before}${{")));
                rest = after;
                continue;
            }
            let name = after.split_once('}').map(|(name, _)| name).filter(|name| is_variable_name(name));
            let Some(name) = name else {
                return Err(
                    "`${` needs a name and a `}`, such as ${name}; write $${ for one that stays".into()
                );
            };
            if !known.contains(name) && !BUILT_IN.contains(&name) && !OWN.contains(&name) {
                return Err(format!(
                    "no variable `{name}` is set anywhere; set it under [vars] or in vars of a group or node, or \
                     write $${{{name}}} for one that stays"
                ));
            }
            parts.push(Part::Text(before.to_owned()));
            parts.push(Part::Variable(name.to_owned()));
            rest = after.get(name.len() + 1..).unwrap_or_default();
        }
        parts.push(Part::Text(rest.to_owned()));
        parts.retain(|part| *part != Part::Text(String::new()));
        Ok(Self(parts))
    }

    /// With a node's values; else the variable that it has not.
    pub(crate) fn fill(&self, values: &Values) -> Result<String, String> {
        let parts = self.0.iter().map(|part| match part {
            Part::Text(text) => Ok(text.as_str()),
            Part::Variable(name) => values.get(name).map(String::as_str).ok_or_else(|| name.clone()),
        });
        parts.collect()
    }
}
