"""`fmx`: a verb by name, or Hydra overrides alone for a run."""

import runpy
import sys

__all__ = ["VERBS", "main"]

VERBS = ["evaluate", "predict", "export", "report", "compare", "reproduce", "data"]


def main() -> None:
    """Run `fmx VERB …` as `python -m fmx.VERB …`; everything else is a run's command line, so that completion works."""
    verb = sys.argv[1] if len(sys.argv) > 1 else "run"
    if verb in VERBS:
        del sys.argv[1]
        runpy.run_module(f"fmx.{verb}", run_name="__main__", alter_sys=True)
    else:
        if verb == "run" and len(sys.argv) > 1:
            del sys.argv[1]
        from fmx.run import command

        command()
