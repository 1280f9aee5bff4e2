//! Takes a machine from power-on to the running agent: DHCP, TFTP, boot scripts and boot files.
