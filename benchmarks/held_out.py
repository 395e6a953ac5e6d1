"""Write a data set of training images alone, on which a recipe can be chosen: the official test images are not in it.

    python benchmarks/held_out.py [--data fashion_mnist] [--images 5000]
    python -m fmx.run data=npz data.file=$PWD/outputs/held_out/fashion_mnist.npz data.validation=none …

Of the 60,000 training images so many become its test set, as many of each class. A run on it trains on the others, and
its test accuracy is that of its last weights on these.
"""

import argparse
from pathlib import Path

import numpy as np
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from sklearn.model_selection import train_test_split

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="fashion_mnist")
    parser.add_argument("--images", type=int, default=5000)
    arguments = parser.parse_args()
    with initialize_config_dir(str(ROOT / "conf"), version_base=None):
        arrays = instantiate(compose("config", [f"data={arguments.data}"]).data.train)
    images, labels = arrays.images.squeeze(1).numpy(), arrays.labels.numpy()
    train, test = train_test_split(np.arange(len(labels)), test_size=arguments.images, stratify=labels, random_state=1)
    path = ROOT / "outputs" / "held_out" / f"{arguments.data}.npz"
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, x_train=images[train], y_train=labels[train], x_test=images[test], y_test=labels[test])
    print(f"{path}: {len(train):,} training images and {len(test):,} to judge by")


if __name__ == "__main__":
    main()
