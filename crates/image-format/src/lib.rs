//! File-mode images: bytes to values and back.
