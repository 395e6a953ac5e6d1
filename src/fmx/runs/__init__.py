"""Run directories: named, written, read back, trusted, and gone on with."""
