"""Imported before all else by the process that jobs are forked from: what it imports is no garbage."""

from fmx.process.start import start_lean

__all__: list[str] = []

start_lean()
