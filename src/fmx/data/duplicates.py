"""Images that occur more than once, in one set or in both."""

from collections import Counter
from hashlib import blake2b

from fmx.data.arrays import ImageArrays

__all__ = ["common_images", "hashes"]


def common_images(train: ImageArrays, test: ImageArrays) -> tuple[int, int, int]:
    """Count surplus copies within training and within test, and test images that are in the training set too.

    Two images are the same if all their bytes are equal.
    """
    seen = [hashes(part) for part in (train, test)]
    within = [len(part) - len(set(part)) for part in seen]
    trained_on = set(seen[0])
    both = sum(count for digest, count in Counter(seen[1]).items() if digest in trained_on)
    return within[0], within[1], both


def hashes(arrays: ImageArrays) -> list[bytes]:
    """A hash of each image's bytes: equal for equal images alone."""
    rows = arrays.images.flatten(1).contiguous().numpy()
    return [blake2b(row, digest_size=16).digest() for row in rows]
