//! From settings and one node to its steps.

use std::collections::BTreeMap;

use node_api::{BootOrder, Contents, Step, StepFile, StepFileKind, StepProgram};

use crate::settings::{Body, Hook, Settings, Systems, Unit};
use crate::template::Values;
use crate::{accounts, cloud_init, network};

/// Contents of all steps of one node, bytes. In base64 that is 5.6 MB of the 8 MiB that an agent takes as a task.
pub const STEP_BYTES_MAX: usize = 4 << 20;
/// systemctl(1) writes a few links for each unit.
const UNITS_LIMIT_S: u64 = 120;

/// One node in one boot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// Names of the rules that hold for it, the first winning: `node.NAME`, `group.NAME`, `default`.
    pub rules: Vec<String>,
    /// Its variables; `domain` and `fqdn` are added.
    pub values: BTreeMap<String, String>,
    /// 32 hex digits.
    pub machine_id: String,
}

/// What a node's task says of its system.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Made {
    /// Domain of the host name.
    pub domain: Option<String>,
    /// What becomes of the firmware's boot order.
    pub boot_order: BootOrder,
    /// Lines for root's `authorized_keys`, beside those of the site.
    pub root_keys: Vec<String>,
    /// Everything else, in order.
    pub steps: Vec<Step>,
}

/// Why a node can have no steps: one of its values does not fit its settings.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StepsError {
    /// A template asks for what the node has not.
    #[error(
        "{place} needs the variable `{name}`, which this node has not; set it in vars of the node or its group"
    )]
    Unset {
        /// A path, or the name of a setting.
        place: String,
        /// The variable.
        name: String,
    },
    /// A setting of the network, filled in, is not what it has to be.
    #[error("{place} is \"{text}\" for this node, and no {wanted}")]
    Malformed {
        /// The name of the setting.
        place: &'static str,
        /// What came out.
        text: String,
        /// What it has to be.
        wanted: &'static str,
    },
    /// `method = "static"` and nothing more.
    #[error("network.method is \"static\", and this node has no network.address")]
    NoAddress,
    /// More than a task holds.
    #[error(
        "its files, hooks and user data have {0} bytes; {STEP_BYTES_MAX} are the most, the rest belongs in the image"
    )]
    TooLarge(usize),
}

impl Systems {
    /// The steps of one node.
    ///
    /// # Errors
    /// [`StepsError`]; the site's settings do not fit this node.
    pub fn steps(&self, node: &Node) -> Result<Made, StepsError> {
        let settings = self.of(&node.rules);
        let values = values(node, settings.domain.as_deref());
        let mut steps = network::steps(&settings.network, &values)?;
        steps.extend(cloud_init::step(&settings, &values, &node.machine_id)?);
        steps.extend(accounts::steps(&settings.users));
        steps.extend(files(&settings, &values)?);
        steps.extend(units(&settings.units));
        for hook in &settings.hooks {
            steps.push(hook_step(hook, &values)?);
        }
        let of_files = steps.iter().flat_map(|step| &step.files).map(|file| file.contents.0.len());
        let of_programs = steps.iter().filter_map(|step| step.program.as_ref());
        let bytes = of_files.chain(of_programs.map(|program| program.contents.0.len())).sum();
        if bytes > STEP_BYTES_MAX {
            return Err(StepsError::TooLarge(bytes));
        }
        let root = settings.users.get("root");
        Ok(Made {
            domain: settings.domain,
            boot_order: settings.boot_order.unwrap_or_default(),
            root_keys: root.map(|root| root.keys.clone()).unwrap_or_default(),
            steps,
        })
    }
}

fn values(node: &Node, domain: Option<&str>) -> Values {
    let mut values = node.values.clone();
    let name = values.get("name").cloned().unwrap_or_default();
    values.insert("fqdn".into(), domain.map_or_else(|| name.clone(), |domain| format!("{name}.{domain}")));
    values.insert("domain".into(), domain.unwrap_or_default().to_owned());
    values
}

/// A file with these bytes.
pub(crate) fn file(path: impl Into<String>, mode: u32, text: impl Into<Vec<u8>>) -> StepFile {
    StepFile { path: path.into(), mode, contents: Contents(text.into()), ..StepFile::default() }
}

/// A script with these lines.
pub(crate) fn script(lines: &[String], limit_s: u64) -> StepProgram {
    let text = format!("#!/bin/sh\nset -eu\n{}\n", lines.join("\n"));
    StepProgram { contents: Contents(text.into_bytes()), limit_s, environment: Vec::new() }
}

pub(crate) fn bytes(body: &Body, place: &str, values: &Values) -> Result<Vec<u8>, StepsError> {
    match body {
        Body::Plain(bytes) | Body::Link(bytes) => Ok(bytes.clone()),
        Body::Folder => Ok(Vec::new()),
        Body::Filled(template) => {
            let filled = template.fill(values);
            Ok(filled.map_err(|name| StepsError::Unset { place: place.to_owned(), name })?.into_bytes())
        }
    }
}

/// Parents come before what is in them, as their paths sort so.
fn files(settings: &Settings, values: &Values) -> Result<Option<Step>, StepsError> {
    let mut files = Vec::new();
    for (path, one) in &settings.files {
        let attributes = settings.attributes.get(path).cloned().unwrap_or_default();
        files.push(StepFile {
            path: path.clone(),
            kind: match one.body {
                Body::Plain(_) | Body::Filled(_) => StepFileKind::File,
                Body::Link(_) => StepFileKind::Link,
                Body::Folder => StepFileKind::Folder,
            },
            mode: attributes.mode.unwrap_or(one.mode),
            owner: attributes.owner.unwrap_or_default(),
            contents: Contents(bytes(&one.body, path, values)?),
        });
    }
    Ok((!files.is_empty()).then(|| Step { name: "files".into(), files, ..Step::default() }))
}

fn units(units: &BTreeMap<String, Unit>) -> Option<Step> {
    let lines = units.iter().map(|(unit, state)| {
        let verb = match state {
            Unit::Enable => "enable",
            Unit::Disable => "disable",
            Unit::Mask => "mask",
        };
        format!("systemctl {verb} '{unit}'")
    });
    let lines: Vec<String> = lines.collect();
    (!lines.is_empty()).then(|| Step {
        name: "services".into(),
        program: Some(script(&lines, UNITS_LIMIT_S)),
        ..Step::default()
    })
}

/// A hook finds the node's variables in its environment.
fn hook_step(hook: &Hook, values: &Values) -> Result<Step, StepsError> {
    let name = format!("hook {}", hook.name);
    let contents = Contents(bytes(&hook.body, &name, values)?);
    let environment =
        values.iter().map(|(name, value)| (format!("ESIR_{}", name.to_uppercase()), value.clone()));
    let program = StepProgram { contents, limit_s: hook.limit_s, environment: environment.collect() };
    Ok(Step { name, program: Some(program), ..Step::default() })
}
