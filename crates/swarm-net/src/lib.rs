//! Drives the BitTorrent engine over real sockets; tracker and web seed.
