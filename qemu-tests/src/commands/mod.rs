//! One file per subcommand.

pub(crate) mod attach;
pub(crate) mod bench;
pub(crate) mod demo;
pub(crate) mod setup_image;
pub(crate) mod table;
pub(crate) mod try_menu;
pub(crate) mod up;
