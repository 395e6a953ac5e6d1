"""Imported before all else by the process that jobs are forked from: what it imports is no garbage."""

from fmx.command import look_seldom_for_garbage

__all__: list[str] = []

look_seldom_for_garbage()
