"""Equal and similar images within and between the parts of a data set: the search, its tables and its figure."""

from collections.abc import Sequence
from itertools import combinations

from matplotlib.figure import Figure

from fmx.data.near_duplicates import CHANGES, find_pairs
from fmx.data.pairs_file import Duplicates, PairedPart
from fmx.data.pixels import drawable
from fmx.reporting.figures.duplicate_pairs import MAX_DRAWN, DrawnImage, duplicate_pairs

__all__ = ["count_rows", "draw_pairs", "find_duplicates", "nearest_rows"]

Table = tuple[list[str], list[list[str]]]


def find_duplicates(parts: Sequence[PairedPart], *, threshold: float) -> list[Duplicates]:
    """The pairs within each part, then those between each two, as `find_pairs` takes `threshold`."""
    within = [Duplicates(part, part, find_pairs(part.arrays, None, threshold=threshold)) for part in parts]
    return within + [
        Duplicates(one, other, find_pairs(one.arrays, other.arrays, threshold=threshold))
        for one, other in combinations(parts, 2)
    ]


def count_rows(found: Sequence[Duplicates]) -> Table:
    """Headings and rows of a table: the numbers of pairs, of those with two labels, and of the images in them."""
    rows = []
    for each in found:
        pairs, (ours, theirs) = each.pairs, each.labels
        images = {each.first.name: {*pairs.first.tolist()}}
        images[each.second.name] = images.get(each.second.name, set()) | {*pairs.second.tolist()}
        num_equal = int(pairs.equal.sum())
        counts = (num_equal, len(pairs) - num_equal, int((ours != theirs).sum()))
        shown = ", ".join(f"{len(indices):,} {name}" for name, indices in images.items())
        rows.append([each.name, *(f"{count:,}" for count in counts), shown])
    return ["", "exact pairs", "near pairs", "of two labels", "images in pairs"], rows


def nearest_rows(each: Duplicates, class_names: Sequence[str], *, most: int) -> Table:
    """Headings and rows of the nearest pairs, images by their files if they have any, else by their positions."""
    pairs, labels, parts = each.pairs, each.labels, (each.first, each.second)
    rows = []
    for at in range(min(most, len(pairs))):
        ends = []
        for part, indices, label in zip(parts, (pairs.first, pairs.second), labels, strict=True):
            index = int(indices[at])
            ends += [part.files[index] if part.files else str(index), class_names[int(label[at])]]
        how = "equal" if pairs.equal[at] else _in_words(int(pairs.change[at]))
        rows.append([*ends, f"{float(pairs.correlation[at]):.4f}", how])
    return [each.first.name, "label", each.second.name, "label", "correlation", "the second is"], rows


def draw_pairs(found: Sequence[Duplicates], class_names: Sequence[str]) -> Figure | None:
    """Draw the nearest pairs and those next to the threshold; None without any.

    They are of a training and a test image if there are such, else of the parts that have the most.
    """
    each = max(found, key=lambda each: (bool(len(each.pairs)) and each.is_of_test(), len(each.pairs)))
    number, half = len(each.pairs), MAX_DRAWN // 2
    if not number:
        return None
    chosen = [*range(number)] if number <= MAX_DRAWN else [*range(half), *range(number - half, number)]
    first, second = (
        [_drawn(part, int(indices[at])) for at in chosen]
        for part, indices in ((each.first, each.pairs.first), (each.second, each.pairs.second))
    )
    drawn = [*zip(first, second, each.pairs.correlation[chosen].tolist(), strict=True)]
    title = f"Duplicates: {len(drawn)} of {number:,} pairs, {each.name}"
    subtitle = "the nearest first" + (", then those next to the threshold" if number > MAX_DRAWN else "")
    return duplicate_pairs(drawn, class_names, title=title, subtitle=f"{subtitle}; r: correlation, red: two labels")


def _drawn(part: PairedPart, index: int) -> DrawnImage:
    return DrawnImage(drawable(part.arrays.images[index]), int(part.arrays.labels[index]), f"{part.name} {index}")


def _in_words(change: int) -> str:
    """What brings the second image onto the first."""
    down, right, mirrored = CHANGES[change]
    steps = [("down" if down > 0 else "up", down), ("right" if right > 0 else "left", right)]
    moved = " and ".join(f"1 {way}" for way, step in steps if step)
    return ", ".join(["mirrored"] * mirrored + [f"moved {moved}"] * bool(moved)) or "in place"
