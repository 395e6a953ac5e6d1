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
        return
    if verb.isalpha() and verb != "run":
        _refuse(verb)
    if verb == "run" and len(sys.argv) > 1:
        del sys.argv[1]
    from fmx.run import command

    command()


def _refuse(word: str) -> None:
    """Say which verb a word without `=` may have meant; Hydra would call it an override that it cannot read."""
    from fmx.errors import ConfigError
    from fmx.exits import plain_exits
    from fmx.hydra_errors import nearest

    with plain_exits():
        verbs = ["run", *VERBS]
        raise ConfigError(f"there is no verb {word!r}{nearest(word, verbs)} Verbs: {', '.join(verbs)}")


if __name__ == "__main__":
    main()
