//! The boot bundle: kernel, initrd and store of modules, firmware and tools as values; modalias matching.
