"""`fmx data`: fetch, check and summarise a data set, and convert between IDX and CSV files."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fmx.commands.verb_parser import VerbParser
from fmx.process.exits import plain_exits
from fmx.process.start import as_command

if TYPE_CHECKING:
    from omegaconf import DictConfig
    from torch import Tensor

    from fmx.data.arrays import ImageArrays
    from fmx.data.module import ImageDataModule
    from fmx.data.source import Source

__all__ = ["main", "make_parser"]

EXAMPLES = """\
examples:
  fmx data                                     check Fashion-MNIST, fetching it where it is missing
  fmx data mnist --root /data --grid mnist.png
  fmx data image_folder --root my_images
  fmx data fashion_mnist --idx-to-csv csv      write csv/fashion-mnist_train.csv and csv/fashion-mnist_test.csv
  fmx data --csv-to-idx csv --root idx         write idx/FashionMNIST/raw/train-images-idx3-ubyte and so on
"""
MAX_BYTES = 512 * 2**20  # of pixels to load for the mean and the search for duplicates
MAX_FOLDS = 10  # that have a column
MANY = 10  # damaged pictures that are named; the others are counted
CSV_NAMES = {"train": "fashion-mnist_train.csv", "test": "fashion-mnist_test.csv"}


def make_parser() -> VerbParser:
    """The verb's options and arguments."""
    parser = VerbParser(
        "data",
        description="Check a data set: sums, shapes, class counts, images that are in both training and test set.",
        examples=EXAMPLES,
    )
    parser.add_argument("name", nargs="?", default="fashion_mnist", help="a member of the data group")
    parser.add_argument("keys", nargs="*", metavar="data.KEY=VALUE", help="other values of it, as in a run's command")
    parser.add_argument("--root", metavar="DIR", help="where the files are, or go (default: FMX_DATA_ROOT, else data)")
    parser.add_argument("--config-dir", metavar="DIR", help="a folder with your own data group")
    parser.add_argument("--grid", type=Path, metavar="F.png", help="draw training images of each class")
    parser.add_argument("--idx-to-csv", type=Path, metavar="DIR", help="write the set as CSV files in Kaggle's layout")
    parser.add_argument(
        "--csv-to-idx", type=Path, metavar="DIR", help="write Kaggle's files in DIR as IDX below --root"
    )
    parser.add_argument("--deep", action="store_true", help="decode every picture, and name those that cannot be")
    parser.add_argument("--force", action="store_true", help="replace files that exist")
    return parser


def main() -> None:
    """Run the command line and end with one of fmx's exit codes."""
    arguments = make_parser().parse_args()
    with plain_exits():
        if arguments.csv_to_idx:
            _csv_to_idx(arguments)
        else:
            _check(arguments)


def _check(arguments: argparse.Namespace) -> None:
    """Load the set, which verifies its checksums, and print a summary."""
    from fmx.runs.new_file import new_file, refuse_existing

    outputs = [arguments.idx_to_csv / name for name in CSV_NAMES.values()] if arguments.idx_to_csv else []
    for path in [*outputs, *([arguments.grid] if arguments.grid else [])]:
        if path.parent.exists() or path.parent != arguments.idx_to_csv:  # created below
            refuse_existing(path, force=arguments.force)
    node = _compose(arguments.name, arguments.root, arguments.config_dir, arguments.keys)
    data = _load(node)
    if arguments.deep:
        _decode_all(data)
    _print_summary(data, node)
    arrays = [_arrays(data, part) for part in CSV_NAMES] if outputs else []
    if outputs:
        arguments.idx_to_csv.mkdir(parents=True, exist_ok=True)
    if arguments.grid:
        from fmx.reporting.figures.fonts import drawable
        from fmx.reporting.figures.samples import samples

        names = drawable(data.class_names, data.english_names)
        figure = samples(data.pictures("train"), data.labels("train"), names)
        with new_file(arguments.grid, force=arguments.force) as temporary:
            figure.savefig(temporary, format="png", dpi=110)
        print(f"wrote {arguments.grid}")
    for each, path in zip(arrays, outputs, strict=True):
        from fmx.data.conversion import write_csv

        with new_file(path, force=arguments.force) as temporary:
            write_csv(temporary, each)
        print(f"wrote {path}")


def _decode_all(data: "ImageDataModule") -> None:
    """DataError with the first pictures that cannot be decoded."""
    from fmx.data.arrays import ImageArrays
    from fmx.errors import DataError

    damaged: list[str] = []
    for source in {id(each): each for each in data.sources.values()}.values():
        if isinstance(source, ImageArrays):  # decoded when loaded
            continue
        for index in range(len(source)):  # type: ignore[arg-type]
            try:
                source[index]
            except DataError as error:
                damaged.append(str(error))
    if damaged:
        more = f"\nand {len(damaged) - MANY} more" if len(damaged) > MANY else ""
        raise DataError("\n".join(damaged[:MANY]) + more)
    print("every picture can be decoded")


def _csv_to_idx(arguments: argparse.Namespace) -> None:
    """Read and validate the CSV files, and write the four IDX files where the IDX reader expects them."""
    from fmx.data.conversion import write_idx
    from fmx.runs.new_file import new_file, refuse_existing

    idx = _compose(arguments.name, arguments.root, arguments.config_dir)
    parts = ("train", "test")
    paths = {
        (part, kind): Path(idx[part].folder) / idx[part][kind].name for part in parts for kind in ("images", "labels")
    }
    for path in paths.values():
        path.parent.mkdir(parents=True, exist_ok=True)
        for existing in (path, path.with_name(f"{path.name}.gz")):  # a run prefers the plain file
            refuse_existing(existing, force=arguments.force)
    data = _load(_compose("fashion_mnist_csv", str(arguments.csv_to_idx), None))
    for (part, kind), path in paths.items():
        with new_file(path, force=arguments.force) as temporary:
            write_idx(temporary, getattr(_arrays(data, part), kind))
        print(f"wrote {path}")
    others = [
        f"data.{part}.{kind}.md5=null"
        for (part, kind), path in paths.items()
        if (wanted := idx[part][kind].md5) is not None and wanted != _md5(path)
    ]
    if others:
        print(f"They are not the official files of {idx.name}; a run takes them with\n  {' '.join(others)}")


def _md5(path: Path) -> str:
    from fmx.data.idx import md5_sum

    with path.open("rb") as file:
        return md5_sum(file)


def _compose(name: str, root: str | None, config_dir: str | None, keys: Sequence[str] = ()) -> "DictConfig":
    """The data node as a run would compose it."""
    from fmx.config.quoting import quoted
    from fmx.errors import ConfigError
    from fmx.runs.composition import compose_config

    if strange := [each for each in keys if not each.lstrip("+").startswith("data.")]:
        raise ConfigError(f"{strange[0]!r} is no key of a data set: type data.KEY=VALUE")
    overrides = [f"data={name}", *([f"data.root={quoted(root)}"] if root else []), *keys]
    data: DictConfig = compose_config(overrides, config_dir=config_dir).data
    return data


def _load(node: "DictConfig") -> "ImageDataModule":
    """The data set with all its training images in one part."""
    from omegaconf import OmegaConf, open_dict
    from torch import nn

    from fmx.config.rules import check_values
    from fmx.training.build import make_data

    check_values({"data": OmegaConf.to_container(node, resolve=True), "loss": {}})
    whole = node.copy()
    with open_dict(whole):
        whole.validation, whole.folds, whole.fold = "none", None, None
    return make_data(whole, augment=nn.Identity(), seed=0)


def _arrays(data: "ImageDataModule", part: str) -> "ImageArrays":
    from fmx.data.arrays import ImageArrays
    from fmx.errors import DataError

    source = data.sources["train" if part == "train" else "test"]
    if not isinstance(source, ImageArrays):
        raise DataError(f"{data.name} is not held in memory; only sets that are can be converted")
    if data.pixels.kind != "uint8":
        raise DataError(f"{data.name} has more than 8 bits per value, and these files have 8")
    return source


def _held_out(data: "ImageDataModule", node: "DictConfig") -> dict[str, "Tensor"]:
    """The labels of the training images that a run would hold out, by a heading; one for each of the first folds."""
    from fmx.config.validation import OWN, validation_of
    from fmx.data.module import divide
    from fmx.errors import ConfigError

    labels, names = data.labels("train"), data.class_names
    how = node.validation, node.split, node.split_seed
    if str(validation_of(node)) in {"none", "test", OWN}:
        return {}
    folds = [None] if node.get("folds") is None else range(min(node.folds, MAX_FOLDS))
    try:
        return {
            "held out" if fold is None else f"fold {fold}": labels[
                divide(labels, *how, folds=node.get("folds"), fold=fold, class_names=names)[1]
            ]
            for fold in folds
        }
    except ConfigError as error:
        print(f"a run would be refused: {error}")
        return {}


def _print_summary(data: "ImageDataModule", node: "DictConfig") -> None:
    from math import prod

    from fmx.data.arrays import mean_and_std
    from fmx.data.duplicates import common_images
    from fmx.process.table import print_table

    train, test = data.labels("train"), data.labels("test")
    parts = {"training": train, "validation": data.labels("val"), "test": test}
    if not data.has_validation:
        del parts["validation"]
    shape = " × ".join(map(str, data.input_shape))
    counts = ", ".join(f"{len(labels):,} {part}" for part, labels in parts.items())
    counts = " and ".join(counts.rsplit(", ", 1))
    print(f"{data.name}: {counts} images of {shape}, {data.num_classes} classes")
    print(f"fingerprint {data.fingerprints()['fingerprint']}")
    held_out = _held_out(data, node)
    own = {name: labels for name, labels in parts.items() if name == "validation"}
    columns = {"training": train, **held_out, **own, "test": test}
    numbers = [labels.bincount(minlength=data.num_classes).tolist() for labels in columns.values()]
    rows = [
        [str(label), name, *(f"{number:,}" for number in row)]
        for label, (name, row) in enumerate(zip(data.class_names, zip(*numbers, strict=True), strict=True))
    ]
    print_table(["label", "class", *columns], rows)
    if held_out:
        all_folds = f" ({node.folds} in all)" if node.get("folds") and node.folds > MAX_FOLDS else ""
        sizes = ", ".join(f"{name} {len(part):,}" for name, part in held_out.items())
        print(f"{sizes}{all_folds}, of the training images")
    num_bytes = (len(train) + len(test)) * prod(data.input_shape)
    if num_bytes > MAX_BYTES:
        print(f"(duplicates and mean are not computed: {num_bytes / 2**20:,.0f} MiB of pixels are more than the "
              f"{MAX_BYTES / 2**20:,.0f} MiB that this takes at once)")  # fmt: skip
        return
    training, testing = (_in_memory(data.sources[part]) for part in ("train", "test"))
    mean, std = mean_and_std(training)
    print(f"mean {mean}, standard deviation {std} of the training pixels in 0..1")
    within_train, within_test, both = common_images(training, testing)
    print(f"images that occur more than once: {within_train} in training, {within_test} in test, {both} in both")


def _in_memory(source: "Source") -> "ImageArrays":
    """A source as arrays, with all files read where it is not in memory already."""
    import torch

    from fmx.data.arrays import ImageArrays

    if isinstance(source, ImageArrays):
        return source
    images, labels = zip(*(source[index] for index in range(len(source))), strict=True)  # type: ignore[arg-type]
    return ImageArrays(torch.stack(images), torch.tensor(labels))


if __name__ == "__main__":
    as_command(main)
