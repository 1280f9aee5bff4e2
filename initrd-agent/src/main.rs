//! PID 1 of the boot environment: drives the hardware, fetches the image, installs it.

mod hardware;
mod stage;
mod sys;

fn main() {}
