//! Boot menus: what a site writes in one file becomes what each node gets, as an iPXE script or a configuration
//! for GRUB or PXELINUX.
//!
//! Never opens a file or a socket, never asks a clock, and never says whether a node may write to its disk.
//!
//! Read first: [`Menus`] (the checked model), [`Facts`] (a node as it boots), [`Plan`] (what it gets).
//!
//! ```text
//! TOML --Sections--> check --Menus--> resolve(Facts) --Plan--> ipxe::script / grub::config / pxelinux::config / preview::draw
//! ```
#![forbid(unsafe_code)]

mod check;
pub mod grub;
mod hostlist;
pub mod ipxe;
mod model;
mod names;
pub mod preview;
pub mod pxelinux;
mod raw;
mod resolve;
mod select;
mod text;

#[cfg(test)]
mod tests;

pub use check::{NodeRule, check};
pub use hostlist::Hostlist;
pub use model::{Entry, Firmware, Item, Kind, Local, Menu, Menus, Program, Start, User};
pub use raw::{OneOrMore, Problem, RawChoice, SECTIONS, Sections};
pub use resolve::{Plan, Ready, Step};
pub use select::{Facts, MacGlob, Subnet};
pub use text::{BUILT_IN, Location, Template, is_variable_name, kernel_words_problem};

/// Where the server is, as nodes reach it, and how they ask it for more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// Boot files over HTTP.
    pub http: std::net::SocketAddrV4,
    /// The URL of boot scripts with the settings that iPXE fills in; more of the query is added with `&`.
    pub script_url: String,
}

impl Server {
    /// `http://ADDRESS`; port 80 goes without saying.
    pub(crate) fn base(&self) -> String {
        format!("http://{}", self.authority())
    }

    /// The server over HTTP as GRUB names it, in front of a path. `None` where it is not at the usual port, since only
    /// newer GRUBs know others.
    pub(crate) fn grub_device(&self) -> Option<String> {
        (self.http.port() == 80).then(|| format!("(http,{})", self.http.ip()))
    }

    /// `ADDRESS` or `ADDRESS:PORT`.
    pub(crate) fn authority(&self) -> String {
        match self.http.port() {
            80 => self.http.ip().to_string(),
            _ => self.http.to_string(),
        }
    }
}
