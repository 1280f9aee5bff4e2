//! The BitTorrent engine, sans-I/O.
