//! State: one seam over SQLite.
