"""`fmx`: a verb by name, or Hydra overrides alone for a run."""

import importlib
import sys

__all__ = ["VERBS", "main"]

VERBS = ["evaluate", "predict", "export", "report", "compare", "reproduce", "data"]


def main() -> None:
    """Dispatch `fmx VERB …` to fmx.VERB; everything else is a run's command line, so that completion works."""
    arguments = sys.argv[1:]
    if arguments and arguments[0] in {*VERBS, "run"}:
        del sys.argv[1]
        sys.argv[0] = f"fmx {arguments[0]}"
        importlib.import_module(f"fmx.{arguments[0]}").main()
    else:
        from fmx.run import main as run_main

        run_main()
