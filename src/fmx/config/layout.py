"""The groups and keys that a configuration has."""

__all__ = ["GROUPS", "MODEL_KEYS", "REPORTED", "ROOT_KEYS"]

GROUPS = [
    "data",
    "model",
    "augment",
    "loss",
    "optim",
    "schedule",
    "metrics",
    "trainer",
    "classifier",
    "callbacks",
    "logger",
]


ROOT_KEYS = [
    *GROUPS,
    "seed",
    "select",
    "memory_format",
    "resume",
    "extend",
    "init",
    "init_strict",
    "run_dir",
    "sweep",
    "vars",
]


MODEL_KEYS = ["name", "net"]


REPORTED = ["accuracy", "macro_f1"]  # metrics of metrics.json, of every leaderboard and of the last line of a run
