//! PID 1 of the boot environment: drives the hardware, fetches the image, installs it.

fn main() {}
