"""`fmx VERB …`, or `fmx OVERRIDE …` for a run."""

import sys

from fmx.commands.verbs import MORE_VERBS, VERBS, verb_module

__all__ = ["main"]

# Names for these commands in other programs.
KNOWN_AS = {
    "fmx run": ["train", "fit", "start"],
    "fmx evaluate": ["test", "eval", "score", "validate"],
    "fmx predict": ["infer", "inference", "classify"],
    "fmx report": ["leaderboard", "summary", "table", "list", "ls"],
    "fmx compare": ["diff"],
    "fmx status": ["ps", "progress", "queue", "top", "monitor", "state", "jobs"],
    "fmx watch": ["dashboard", "live", "serve", "follow"],
    "fmx tensorboard": ["tb", "board"],
    "fmx lr-find": ["lr_find", "lrfind", "find_lr", "range_test"],
    "fmx run resume=RUN": ["resume", "continue"],
    "fmx -m KEY=A,B": ["sweep", "multirun", "grid"],
    "fmx -m hydra/sweeper=search KEY=A,B": ["search", "optimize", "tune", "hpo"],
}


def main() -> None:
    """Run a verb's module; any other arguments are a run's command line."""
    sys.argv[0] = sys.argv[0].removesuffix("/__main__.py")  # python -m fmx
    words = sys.argv[1:]
    if words[:1] == ["help"]:
        words = [*words[1:2], "--help"] if words[1:] not in ([], ["help"]) else ["--help"]
    elif words == ["version"]:
        words = ["--version"]
    if words and words[0] in VERBS:
        from fmx.process.start import as_command

        sys.argv[1:] = words[1:]
        as_command(verb_module(words[0]).main)
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


def _refuse(word: str) -> None:
    """Refuse a word without `=`, with a suggestion; Hydra would report an unreadable override."""
    from fmx.errors import ConfigError
    from fmx.process.exits import plain_exits

    with plain_exits():
        raise ConfigError(
            f"there is no verb {word!r}{_meant(word)} Verbs: {', '.join(['run', *VERBS, 'help', 'version'])}"
        )


def _meant(word: str) -> str:
    from fmx.config.key_names import choices_named, is_key, suggest_keys
    from fmx.config.suggest import nearest

    for command, words in KNOWN_AS.items():
        if word.lower() in words:
            return f": type {command}."
    if found := choices_named(word):
        return f"; did you mean {' or '.join(found)}?"
    key, colon, value = word.partition(":")
    if colon and value and (keys := [key] if is_key(key) else suggest_keys(key)):
        return f"; did you mean {_setting(keys[0], value)}?"
    suggestion = nearest(word, [*MORE_VERBS, *VERBS], cutoff=0.6)
    if suggestion == "." and (keys := [word] if is_key(word) else suggest_keys(word)):
        return f"; did you mean {_setting(keys[0], 'VALUE')} (without spaces)?"
    return suggestion


def _setting(key: str, value: str) -> str:
    """`KEY=VALUE` for a suggested key; a suggestion that already has a value is returned unchanged."""
    key = key.partition(" with ")[0].strip("'")
    return key if "=" in key else f"{key}={value}"


if __name__ == "__main__":
    main()
