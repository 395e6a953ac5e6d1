"""A command as a process: start-up, signals, locks, terminal output and exit codes."""
