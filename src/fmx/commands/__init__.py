"""The command line: one file per verb, and the overrides and options of a run."""
