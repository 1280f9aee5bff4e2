//! Devices, modules and firmware: what the machine has and what drives it.
