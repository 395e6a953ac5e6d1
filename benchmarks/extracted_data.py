"""A folder with the real data as torchvision reads it: its archives extracted, which a shared folder may not allow."""

import os
import shutil
from pathlib import Path

__all__ = ["extracted"]

HOME = Path(__file__).resolve().parents[1] / "outputs" / "benchmark_data"


def extracted() -> Path:
    """Copy the archives of FMX_DATA_ROOT (or data/) once and let torchvision extract, or else fetch, them."""
    from torchvision.datasets import MNIST, FashionMNIST

    source = Path(os.environ.get("FMX_DATA_ROOT", "data"))
    for name, dataset in (("FashionMNIST", FashionMNIST), ("MNIST", MNIST)):
        raw = HOME / name / "raw"
        raw.mkdir(parents=True, exist_ok=True)
        for archive in (source / name / "raw").glob("*.gz"):
            if not (raw / archive.name).exists():
                shutil.copy(archive, raw / archive.name)
        dataset(str(HOME), download=True)
    return HOME
