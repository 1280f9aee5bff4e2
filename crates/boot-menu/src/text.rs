//! Text of the site and of nodes on its way into a script.
//!
//! Neither iPXE nor GRUB is given anything to interpret. iPXE has no quotes at all: a line is cut at blanks, `||` and
//! `&&` between blanks end a command, `#` before a word begins a comment, and `${` is replaced afterwards. GRUB has
//! single quotes, in which nothing but a single quote means anything. So none of `$ # | ' " \ ` { } < >`, no control
//! character and nothing beyond ASCII gets through, and `&&` does not stand alone.

use std::collections::BTreeMap;

/// Longest text of the site that gets into a script, before variables are filled in.
const TEMPLATE_BYTES_MAX: usize = 1024;
/// Longest line after that. iPXE and the kernel (x86: 2,048 bytes of command line) take more.
const FILLED_BYTES_MAX: usize = 1536;
/// Longest value of a variable.
pub(crate) const VALUE_BYTES_MAX: usize = 512;
/// Characters of a title that a console of 80 columns shows.
const TITLE_CHARS_MAX: usize = 70;
/// Longest text of a node; serial numbers have 10 to 30 characters.
const FACT_CHARS_MAX: usize = 64;

/// What may stand in words of the agent's kernel command line beside letters and digits.
const KERNEL_SYMBOLS: &str = " -_.,:/=+@%";
/// The kernel's command line has 2,048 bytes on x86; ours takes 300 of them.
const KERNEL_WORDS_BYTES_MAX: usize = 1024;

/// Variables that the server fills in for each node.
pub const BUILT_IN: [&str; 7] = ["server", "mac", "uuid", "serial", "name", "address", "firmware"];

/// Text with `${variables}`, checked: all its characters are harmless, and every `${` has its `}`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Template {
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Variable(String),
}

/// Why text cannot get into a script.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Unfit {
    /// A character that means something to a loader.
    Symbol(char),
    /// `${` without `}`, or with a name that is none.
    Variable,
    /// Too much of it.
    Long,
    /// A variable that nobody set for this node.
    Unset(String),
    /// `&&` as a word of its own.
    Operator,
}

impl std::fmt::Display for Unfit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Symbol(symbol) => {
                write!(
                    f,
                    "{symbol:?} cannot be carried by a boot script; write it without, or as %XX in a URL"
                )
            }
            Self::Variable => {
                write!(f, "`${{` needs a name of a-z, 0-9 and _ and a `}}`, such as ${{image}}")
            }
            Self::Long => write!(f, "it is longer than {TEMPLATE_BYTES_MAX} bytes; shorten it"),
            Self::Unset(name) => write!(
                f,
                "no variable `{name}` is set for this node; set it under [vars] or its group's vars"
            ),
            Self::Operator => write!(f, "`&&` cannot stand alone; write something else"),
        }
    }
}

/// Whether a character means nothing to any loader.
pub(crate) fn is_harmless(symbol: char) -> bool {
    symbol.is_ascii_alphanumeric() || " -_.,:;/=+@%?&*~!()[]^".contains(symbol)
}

impl Template {
    /// Reads text of the site.
    pub(crate) fn parse(text: &str) -> Result<Self, Unfit> {
        if text.len() > TEMPLATE_BYTES_MAX {
            return Err(Unfit::Long);
        }
        let (mut parts, mut rest) = (Vec::new(), text);
        while let Some((before, after)) = rest.split_once("${") {
            let (name, after) = after.split_once('}').ok_or(Unfit::Variable)?;
            if !is_variable_name(name) {
                return Err(Unfit::Variable);
            }
            parts.push(plain(before)?);
            parts.push(Part::Variable(name.to_owned()));
            rest = after;
        }
        parts.push(plain(rest)?);
        if has_operator(text) {
            return Err(Unfit::Operator);
        }
        Ok(Self { parts })
    }

    /// The variables that it needs.
    pub(crate) fn variables(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().filter_map(|part| match part {
            Part::Variable(name) => Some(name.as_str()),
            Part::Text(_) => None,
        })
    }

    /// With the variables' values. What comes out is harmless to every loader.
    pub(crate) fn fill(&self, values: &BTreeMap<String, String>) -> Result<String, Unfit> {
        let mut text = String::new();
        for part in &self.parts {
            text.push_str(match part {
                Part::Text(text) => text,
                Part::Variable(name) => values.get(name).ok_or_else(|| Unfit::Unset(name.clone()))?,
            });
        }
        // The parts were looked at one by one; together they are looked at once more, whatever made them.
        if let Some(symbol) = text.chars().find(|symbol| !is_harmless(*symbol)) {
            return Err(Unfit::Symbol(symbol));
        }
        if text.len() > FILLED_BYTES_MAX {
            return Err(Unfit::Long);
        }
        if has_operator(&text) {
            return Err(Unfit::Operator);
        }
        Ok(text)
    }

    /// A line for people: never empty, never begins like an option, at most 70 characters.
    pub(crate) fn fill_title(&self, values: &BTreeMap<String, String>) -> String {
        let text = match self.fill(values) {
            Ok(text) => text,
            Err(unfit) => format!("({unfit})"),
        };
        title(&text)
    }
}

/// Whether a word of it ends a command of iPXE.
pub(crate) fn has_operator(text: &str) -> bool {
    text.split(' ').any(|word| word == "&&")
}

/// What keeps words of a site off the agent's kernel command line, as a sentence with what to write instead; `None` if
/// nothing does. Stricter than what entries of menus may carry: these words stand unquoted behind the server's own.
#[must_use]
pub fn kernel_words_problem(text: &str) -> Option<String> {
    let harmless = |symbol: char| symbol.is_ascii_alphanumeric() || KERNEL_SYMBOLS.contains(symbol);
    if let Some(symbol) = text.chars().find(|symbol| !harmless(*symbol)) {
        return Some(format!(
            "{symbol:?} means something to a boot loader or cannot be carried by a boot script; write it without (letters, \
             digits and `{}` go through)",
            KERNEL_SYMBOLS.trim_start()
        ));
    }
    if text.len() > KERNEL_WORDS_BYTES_MAX {
        return Some(format!("it is longer than {KERNEL_WORDS_BYTES_MAX} bytes; shorten it"));
    }
    text.split(' ').find_map(|word| {
        let name = word.split_once('=').map_or(word, |(name, _)| name);
        match name {
            "--" => Some("the kernel reads nothing behind `--`, and the agent neither; remove it".to_owned()),
            "initrd" | "BOOTIF" => Some(format!("`{name}` is the server's own word; remove it")),
            _ if name.starts_with("esir.") => Some(format!("`{name}` is the server's own word; remove it")),
            _ => None,
        }
    })
}

fn plain(text: &str) -> Result<Part, Unfit> {
    match text.chars().find(|symbol| !is_harmless(*symbol)) {
        Some(symbol) => Err(Unfit::Symbol(symbol)),
        None => Ok(Part::Text(text.to_owned())),
    }
}

/// Any text as a line for people.
pub(crate) fn title(text: &str) -> String {
    let harmless: String =
        text.chars().map(|symbol| if is_harmless(symbol) { symbol } else { '_' }).collect();
    let words: Vec<&str> = harmless.split_ascii_whitespace().filter(|word| *word != "&&").collect();
    let line = words.join(" ");
    let line: String =
        line.trim_start_matches(['-', '&']).trim_start().chars().take(TITLE_CHARS_MAX).collect();
    let line = line.trim_end();
    if line.is_empty() { "(no title)".to_owned() } else { line.to_owned() }
}

/// Text of a node: letters, digits and `-_.:` stay, everything else becomes `_`.
pub(crate) fn fact(text: &str) -> String {
    let plain = |symbol: char| symbol.is_ascii_alphanumeric() || "-_.:".contains(symbol);
    text.trim().chars().take(FACT_CHARS_MAX).map(|symbol| if plain(symbol) { symbol } else { '_' }).collect()
}

/// Names of entries, menus, groups and users.
pub(crate) fn is_name(name: &str) -> bool {
    (1..=40).contains(&name.len())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'_')
        && name.bytes().next().is_some_and(|first| first.is_ascii_alphanumeric())
}

/// Whether a variable can have this name.
#[must_use]
pub fn is_variable_name(name: &str) -> bool {
    is_name(name) && !name.contains('-')
}

/// A file or URL after its variables were filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    /// A file of the server's directory of files for menus, `/`-separated, without `..`.
    File(String),
    /// `http`, `https` or `tftp`, host with port, path with a leading slash.
    Url {
        /// In lower case.
        scheme: String,
        /// Name or address, perhaps with a port.
        host: String,
        /// With everything behind it.
        path: String,
    },
}

impl Location {
    /// Reads what [`Template::fill`] gave.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        if text.contains(' ') || text.is_empty() {
            return None;
        }
        if let Some((scheme, rest)) = text.split_once("://") {
            let (host, path) =
                rest.split_once('/').map_or((rest, "/".to_owned()), |(a, b)| (a, format!("/{b}")));
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-:_".contains(&byte);
            let known = ["http", "https", "tftp"].contains(&scheme);
            let good = known && !host.is_empty() && host.bytes().all(plain);
            return good.then(|| Self::Url { scheme: scheme.to_owned(), host: host.to_owned(), path });
        }
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-_+".contains(&byte);
        let good = |part: &str| !part.is_empty() && !part.starts_with('.') && part.bytes().all(plain);
        text.split('/').all(good).then(|| Self::File(text.to_owned()))
    }
}
