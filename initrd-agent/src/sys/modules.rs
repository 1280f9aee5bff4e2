//! Hands modules to the kernel.

use std::ffi::{CStr, CString};

use nix::errno::Errno;

/// What the kernel made of a module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Inserted {
    /// It runs its code now.
    New,
    /// It was there already, or somebody else is loading it.
    Present,
}

/// Loads a module from its bytes, signature included. Returns when its initialisation is over: for disk
/// drivers that don't ask for asynchronous probing, after their scan (Linux 5.17 and later).
///
/// `parameters` are `name=value` separated by spaces. A NUL in them is an invalid argument.
pub(crate) fn insert(module: &[u8], parameters: &str) -> Result<Inserted, Errno> {
    let parameters = CString::new(parameters).map_err(|_| Errno::EINVAL)?;
    inserted(nix::kmod::init_module(module, CStr::as_ref(&parameters)))
}

const fn inserted(result: nix::Result<()>) -> Result<Inserted, Errno> {
    match result {
        Ok(()) => Ok(Inserted::New),
        Err(Errno::EEXIST) => Ok(Inserted::Present),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_that_is_there_is_no_failure() {
        assert_eq!(inserted(Err(Errno::EEXIST)), Ok(Inserted::Present));
        assert_eq!(inserted(Err(Errno::ENODEV)), Err(Errno::ENODEV));
        assert_eq!(insert(b"", "a=\0"), Err(Errno::EINVAL));
    }
}
