"""Prepares the fork server for its imports, as start_lean does for a command; preloaded there first."""

from fmx.process.start import start_lean

__all__: list[str] = []

start_lean()
