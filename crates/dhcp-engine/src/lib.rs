//! Decides what a DHCP server answers, and which node has which address.
//!
//! Never opens a socket, reads a clock or touches the store: time is an argument, the rest an [`Action`].
//!
//! Read first: [`Engine`], [`Settings`], [`Action`].
//!
//! ```text
//!   datagram -> Engine::handle ---> Action::Send ------------------> socket
//!                               |-> Action::Store -> store --------> socket
//!                               `-> Action::Probe -> ARP on the link
//!   ARP packet -> Engine::hear_arp          (somebody has it: another address)
//!   clock -> Engine::handle_timeout         (nobody answered: the offer leaves)
//! ```
//! An ACK leaves only when its lease is in the store. RFC 2131 (protocol), RFC 3046, 3527 and 5107 (relays),
//! RFC 4578 and PXE 2.1 (firmware), RFC 5227 (address conflicts).
#![forbid(unsafe_code)]

mod ask;
mod engine;
mod leases;
mod limit;
mod moment;
mod prefix;
mod probe;
mod program;
mod record;
mod reply;
mod settings;

#[cfg(test)]
mod tests;

pub use engine::{Action, Datagram, Engine, Handled, Port, Reason, Reply};
pub use leases::{OFFER_HOLD, QUARANTINE};
pub use moment::Moment;
pub use prefix::Prefix;
pub use probe::{PROBE_WAIT, PROBES_MAX};
pub use program::{Architecture, Program};
pub use record::LeaseRecord;
pub use settings::{
    BootNames, Hint, Mode, POOL_ADDRESSES_MAX, Refused, Reservation, Seen, Settings, Subnet, UefiLoader,
    UefiProxy, pool_size,
};
