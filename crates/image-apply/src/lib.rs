//! Writes a file-mode image into a directory, frame by frame, in any order.
