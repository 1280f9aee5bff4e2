//! DHCP packets, decoded leniently and encoded strictly.
