//! Builds the boot bundle from a distribution kernel package.
