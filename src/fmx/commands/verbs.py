"""The verbs of the command line, and the module of each."""

import importlib
from typing import Any

__all__ = ["ABOUT", "MORE_VERBS", "RUN", "VERBS", "parser_of", "verbs_in_help"]

VERBS = {
    "evaluate": "score finished runs again, from their directories alone",
    "predict": "classify pictures with a trained model",
    "explain": "where in a picture the evidence for a class is",
    "export": "write a model as one file for other programs",
    "report": "a leaderboard of runs and sweeps, on the terminal and as files",
    "compare": "what differs between two runs or two groups of seeds, and which is better",
    "ensemble": "the mean probability of several runs, scored like a run",
    "reproduce": "repeat a run and say whether the results are identical",
    "data": "fetch and check a data set, look at it, convert it",
    "lr-find": "try learning rates, draw the loss over them, and print the one to set",
    "status": "what a sweep, a search or a run does at the moment",
    "watch": "the page of a sweep or a search in a browser, which renews itself",
    "tensorboard": "serve the curves and pictures of runs to a browser",
}


RUN = {"run": "train; what `fmx OVERRIDES` does too"}


ABOUT = {
    "help": "this text, or a verb's: fmx help VERB",
    "version": "the version of fmx",
}


MORE_VERBS = RUN | ABOUT


def parser_of(verb: str) -> Any:
    """The parser of a verb's command line."""
    return verb_module(verb).make_parser()


def verb_module(verb: str) -> Any:
    return importlib.import_module(f"fmx.commands.{verb.replace('-', '_')}")


def verbs_in_help() -> str:
    """The verbs, one per line, for --help."""
    return "\n".join(f"  {verb:<13}{what}" for verb, what in (RUN | VERBS | ABOUT).items())
