"""`fmx`: a verb by name, or Hydra overrides alone for a run."""

import importlib
import sys
from typing import Any

__all__ = ["MORE_VERBS", "VERBS", "main", "parser_of", "verbs_in_help"]

VERBS = {
    "evaluate": "score finished runs again, from their directories alone",
    "predict": "say what a model sees in pictures",
    "export": "write a model as one file for other programs",
    "report": "a leaderboard of runs and sweeps, on the terminal and as files",
    "compare": "what differs between two runs or two groups of seeds, and which is better",
    "reproduce": "run a run again and say whether the same comes out",
    "data": "fetch and check a data set, look at it, convert it",
    "tensorboard": "serve the curves and pictures of runs to a browser",
}
RUN = {"run": "train; what `fmx OVERRIDES` does too"}
ABOUT = {
    "help": "this text, or a verb's: fmx help VERB",
    "version": "the version of fmx",
}
MORE_VERBS = RUN | ABOUT
# What other programs call it, and what to type here.
KNOWN_AS = {
    "fmx run": ["train", "fit", "start"],
    "fmx evaluate": ["test", "eval", "score", "validate"],
    "fmx predict": ["infer", "inference", "classify"],
    "fmx report": ["leaderboard", "summary", "table", "list", "ls"],
    "fmx compare": ["diff"],
    "fmx tensorboard": ["tb", "board"],
    "fmx run resume=RUN": ["resume", "continue"],
    "fmx -m KEY=A,B": ["sweep", "multirun", "grid"],
    "fmx -m hydra/sweeper=search KEY=A,B": ["search", "optimize", "tune", "hpo"],
}


def main() -> None:
    """Run `fmx VERB …` as `python -m fmx.VERB …`; everything else is a run's command line, so that completion works."""
    sys.argv[0] = sys.argv[0].removesuffix("/__main__.py")  # python -m fmx
    words = sys.argv[1:]
    if words[:1] == ["help"]:
        words = [*words[1:2], "--help"] if words[1:] not in ([], ["help"]) else ["--help"]
    elif words == ["version"]:
        words = ["--version"]
    if words and words[0] in VERBS:
        from fmx.command import as_command

        sys.argv[1:] = words[1:]
        as_command(_module(words[0]).main)
        return
    if words[:1] == ["run"]:
        words = words[1:]
    elif not words:
        words = ["--help"]
    elif "=" not in words[0] and words[0][0] not in "-+~":
        _refuse(words[0])
    sys.argv[1:] = words
    from fmx.run import command

    command()


def parser_of(verb: str) -> Any:
    """The parser of a verb's command line."""
    return _module(verb).make_parser()


def _module(verb: str) -> Any:
    module = importlib.import_module(f"fmx.{verb}")
    return importlib.import_module(f"fmx.{verb}.__main__") if hasattr(module, "__path__") else module


def verbs_in_help() -> str:
    """A line for each verb."""
    return "\n".join(f"  {verb:<13}{what}" for verb, what in (RUN | VERBS | ABOUT).items())


def _refuse(word: str) -> None:
    """Say what a word without `=` may have meant; Hydra would call it an override that it cannot read."""
    from fmx.errors import ConfigError
    from fmx.exits import plain_exits

    with plain_exits():
        raise ConfigError(
            f"there is no verb {word!r}{_meant(word)} Verbs: {', '.join(['run', *VERBS, 'help', 'version'])}"
        )


def _meant(word: str) -> str:
    from fmx.hydra_errors import nearest
    from fmx.key_names import is_key, meant, member_named

    for command, words in KNOWN_AS.items():
        if word.lower() in words:
            return f": type {command}."
    if found := member_named(word):
        return f"; did you mean {' or '.join(found)}?"
    key, colon, value = word.partition(":")
    if colon and value and (keys := [key] if is_key(key) else meant(key)):
        return f"; did you mean {_setting(keys[0], value)}?"
    said = nearest(word, [*MORE_VERBS, *VERBS], cutoff=0.6)
    if said == "." and (keys := [word] if is_key(word) else meant(word)):
        return f"; did you mean {_setting(keys[0], 'VALUE')} (without spaces)?"
    return said


def _setting(key: str, value: str) -> str:
    """A key that may have been meant, given a value where it is no choice of a member, which has one."""
    key = key.partition(" with ")[0]
    return key if "=" in key else f"{key}={value}"


if __name__ == "__main__":
    main()
