"""A command as a process: how it starts, hears signals, takes its locks, speaks and ends."""
