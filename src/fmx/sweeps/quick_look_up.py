"""Looks up what is installed in the fork server, once for all jobs; preloaded there."""

from hydra.core.plugins import Plugins
from PIL import Image

from fmx.compat import has_entry_points

__all__: list[str] = []

Plugins.instance()
Image.preinit()
has_entry_points("pytorch_lightning.callbacks_factory")
