"""The command line of a verb."""

import argparse
import re
import sys
from typing import Any, NoReturn

from fmx.config.printed_command import printed_command
from fmx.process.narrow_output import ascii_fallback

__all__ = ["VerbParser"]

WRONG = 2  # exit code


class VerbParser(argparse.ArgumentParser):
    """argparse's parser with one-line errors that say what to type instead.

    examples: a heading, then one command per line; errors for missing arguments show the first.
    """

    def __init__(self, verb: str, *, description: str, examples: str) -> None:
        super().__init__(
            prog=f"fmx {verb}",
            description=description,
            epilog=examples,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        self.example = next(line.strip() for line in examples.splitlines() if line.strip().startswith("fmx "))

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Refuse empty arguments as well, which would mean the working directory."""
        from fmx.config.empty_arguments import empty_argument

        if message := empty_argument(sys.argv[1:] if args is None else list(args)):
            self.error(message)
        with ascii_fallback():  # --help
            return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        """Print one line to stderr and end with exit code 2."""
        if missing := re.match(r"the following arguments are required: (.+)", message):
            message = f"{missing[1]} is missing; for example: {self.example}"
        elif unknown := re.match(r"unrecognized arguments: (-[\w-]*)", message):
            from fmx.compat import parser_actions
            from fmx.config.suggest import nearest

            known = [name for action in parser_actions(self) for name in action.option_strings]
            near = nearest(unknown[1], [name for name in known if name.startswith("--")], cutoff=0.6)
            message = f"there is no option {unknown[1]!r}{near}"
        how = printed_command(*self.prog.split(), "--help")
        sys.stderr.write(f"{self.prog}: {message} ({how} shows all)\n")
        sys.exit(WRONG)
