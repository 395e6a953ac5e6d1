"""Lets Hydra find its plugins in the fork server, once for all jobs; preloaded there."""

from hydra.core.plugins import Plugins
from PIL import Image

__all__: list[str] = []

Plugins.instance()
Image.preinit()
