"""The pictures of a figure, which are drawn as one image, told apart again by their outlines."""

from dataclasses import dataclass
from itertools import cycle

import numpy as np
from matplotlib.axes import Axes
from matplotlib.transforms import Bbox

from fmx.reporting.figures.palette import DPI


@dataclass
class Picture:
    """A picture of a page: where it is in inches, its pixels, its frame's colour."""

    axes: Axes
    extent: tuple[float, float, float, float]  # left, right, bottom, top
    pixels: np.ndarray
    frame: tuple[float, ...]

    def get_window_extent(self):
        left, right, bottom, top = self.extent
        return Bbox(self.axes.transData.transform([(left, bottom), (right, top)]))


def pictures(figure):
    found = []
    for axes in figure.axes:
        if not axes.axison and axes.images:
            (sheet,), (outlines,) = axes.images, axes.collections
            for path, frame in zip(outlines.get_paths(), cycle(outlines.get_edgecolors()), strict=False):
                box = path.get_extents()
                columns, rows = (np.rint(DPI * ends).astype(int) for ends in (box.intervalx, box.intervaly))
                pixels = sheet.get_array()[slice(*rows), slice(*columns)]
                assert (pixels[..., 3] == 255).all(), "cut off"
                found.append(Picture(axes, (*box.intervalx, box.y1, box.y0), pixels[..., :3], tuple(frame)))
    return found
