//! The boot bundle as values: kernel, initrd and store of modules, firmware and tools; which module drives
//! which device, and in which order modules load.
//!
//! Never opens a file or a socket, and never loads a module.
//!
//! Read first: [`ModuleIndex`] (what `modules.*` say), [`StoreManifest`] (what a node can fetch by hash),
//! [`NewcWriter`] (the initrd archive).
#![forbid(unsafe_code)]

mod alias;
mod fnmatch;
mod index;
mod manifest;
mod newc;
mod object;

pub use alias::{AliasIndex, normalise_alias};
pub use fnmatch::fnmatch;
pub use index::{IndexTexts, LoadStep, Lookup, ModuleIndex, module_name};
pub use manifest::{
    BundleManifest, FORMAT_VERSION, FileRef, FirmwareEntry, INITRD_MANIFEST_PATH, InitrdFile, InitrdManifest,
    ManifestError, ModuleEntry, STORE_MANIFEST_HASH_PATH, StoreIndex, StoreManifest, Tool, ToolContent,
    ToolFile,
};
pub use newc::{NewcEntry, NewcError, NewcWriter, read_newc};
pub use object::{Encoding, HashError, OBJECT_BYTES_MAX, ObjectError, ObjectHash, ObjectRef};
