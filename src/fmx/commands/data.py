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
    from fmx.data.pairs_file import PairedPart
    from fmx.data.source import Source

__all__ = ["main", "make_parser"]

EXAMPLES = """\
examples:
  fmx data                                     check Fashion-MNIST, fetching it where it is missing
  fmx data mnist --root /data --grid mnist.png
  fmx data image_folder --root my_images
  fmx data fashion_mnist --duplicates --csv pairs.csv --grid pairs.png
  fmx data fashion_mnist --idx-to-csv csv      write csv/fashion-mnist_train.csv and csv/fashion-mnist_test.csv
  fmx data --csv-to-idx csv --root idx         write idx/FashionMNIST/raw/train-images-idx3-ubyte and so on

--duplicates compares all images with all others, within training and test set and between them. Exact pairs have equal
bytes. Near pairs have a correlation of their pixels of at least --threshold, which allows for any brightness and
contrast; the second image may be mirrored, and moved by a pixel. Near is said of pixels alone: simple shapes are alike
without being copies, so look at --grid. Images are compared at the size that training sees. `report` leaves the test
images in the file of --csv out: fmx report RUNS --without pairs.csv
"""
MAX_BYTES = 512 * 2**20  # of pixels to load for the mean and the search for duplicates
MAX_FOLDS = 10  # that have a column
MANY = 10  # damaged pictures that are named; the others are counted
THRESHOLD = 0.98  # correlation
NEAREST = 10  # pairs that are listed
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
    parser.add_argument("--grid", type=Path, metavar="F.png", help="draw training images of each class, or pairs")
    parser.add_argument("--idx-to-csv", type=Path, metavar="DIR", help="write the set as CSV files in Kaggle's layout")
    parser.add_argument(
        "--csv-to-idx", type=Path, metavar="DIR", help="write Kaggle's files in DIR as IDX below --root"
    )
    parser.add_argument(
        "--duplicates", action="store_true", help="find equal and similar images in and between the sets"
    )
    parser.add_argument(
        "--threshold", type=_correlation, metavar="R", help=f"the least correlation of similar images ({THRESHOLD})"
    )
    parser.add_argument("--csv", type=Path, metavar="F.csv", help="write all pairs that --duplicates finds")
    parser.add_argument("--deep", action="store_true", help="decode every picture, and name those that cannot be")
    parser.add_argument("--force", action="store_true", help="replace files that exist")
    return parser


def main() -> None:
    """Run the command line and end with one of fmx's exit codes."""
    parser = make_parser()
    arguments = parser.parse_intermixed_args()
    if not arguments.duplicates and (arguments.csv or arguments.threshold):
        parser.error(f"{'--csv' if arguments.csv else '--threshold'} is for --duplicates")
    if arguments.duplicates and arguments.csv_to_idx:
        parser.error("--csv-to-idx converts files: leave out --duplicates")
    with plain_exits():
        if arguments.csv_to_idx:
            _csv_to_idx(arguments)
        else:
            _check(arguments)


def _correlation(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no correlation above 0 and up to 1")
    return value


def _check(arguments: argparse.Namespace) -> None:
    """Load the set, which verifies its checksums, and print a summary."""
    from fmx.runs.new_file import new_file, refuse_existing

    outputs = [arguments.idx_to_csv / name for name in CSV_NAMES.values()] if arguments.idx_to_csv else []
    for path in [*outputs, *filter(None, [arguments.grid, arguments.csv])]:
        if path.parent.exists() or path.parent != arguments.idx_to_csv:  # created below
            refuse_existing(path, force=arguments.force)
    node = _compose(arguments.name, arguments.root, arguments.config_dir, arguments.keys)
    data = _load(node)
    if arguments.deep:
        _decode_all(data)
    parts = _parts(data) if arguments.duplicates else []
    _print_summary(data, node, {part.name: part.arrays for part in parts})
    arrays = [_arrays(data, part) for part in CSV_NAMES] if outputs else []
    if outputs:
        arguments.idx_to_csv.mkdir(parents=True, exist_ok=True)
    if arguments.duplicates:
        _print_duplicates(data, parts, arguments)
    elif arguments.grid:
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


def _parts(data: "ImageDataModule") -> "list[PairedPart]":
    """The images of training, validation (if it is a set of its own) and test; DataError where they are too many."""
    from math import prod

    from fmx.data.arrays import ImageArrays
    from fmx.data.folder import ImageFolder
    from fmx.data.paired_test_images import TEST, TRAINING
    from fmx.data.pairs_file import PairedPart
    from fmx.data.picture_dataset import PictureDataset
    from fmx.errors import DataError

    named = {TRAINING: "train", **({"validation": "val"} if data.has_validation else {}), TEST: "test"}
    sources = {name: data.sources[part] for name, part in named.items()}  # type: ignore[index]
    unread = [each for each in sources.values() if not isinstance(each, ImageArrays)]
    num_bytes = sum(map(len, unread)) * prod(data.input_shape)  # type: ignore[arg-type]
    if num_bytes > MAX_BYTES:
        remedy = "; choose a smaller data.image_size" if isinstance(unread[0], PictureDataset) else ""
        raise DataError(
            f"duplicates are looked for in memory, and {num_bytes / 2**20:,.0f} MiB of pixels are more than the "
            f"{MAX_BYTES / 2**20:,.0f} MiB that this takes at once{remedy}"
        )
    return [
        PairedPart(name, _in_memory(source), source.files if isinstance(source, ImageFolder) else [])
        for name, source in sources.items()
    ]


def _print_duplicates(data: "ImageDataModule", parts: "Sequence[PairedPart]", arguments: argparse.Namespace) -> None:
    """Find, count, list, write and draw equal and similar images."""
    from fmx.data.near_duplicates import num_flat
    from fmx.data.pairs_file import write_pairs
    from fmx.process.table import print_lines, print_table
    from fmx.reporting.duplicates import count_rows, draw_pairs, find_duplicates, nearest_rows
    from fmx.runs.new_file import new_file

    threshold = THRESHOLD if arguments.threshold is None else arguments.threshold
    shape = " × ".join(map(str, data.input_shape))
    how = f"near pairs have a correlation of at least {threshold:g}, also mirrored or moved by a pixel"
    print_lines([f"comparing all images as training reads them, {shape}: {how} …"])
    found = find_duplicates(parts, threshold=threshold)
    print_table(*count_rows(found), left=[4])
    if flat := sum(num_flat(part.arrays) for part in parts):
        print_lines([f"{flat:,} images of a single value have no correlation: of these only equal ones are pairs"])
    between = next(each for each in found if each.is_of_test())
    if len(between.pairs):
        print_lines([f"the nearest pairs of training and test images, of {len(between.pairs):,}:"])
        print_table(*nearest_rows(between, data.class_names, most=NEAREST), num_left=4, left=[5])
    if arguments.csv:
        with new_file(arguments.csv, force=arguments.force) as temporary:
            write_pairs(temporary, found, data.class_names, data.fingerprints()["fingerprint"])
        print(f"wrote {arguments.csv}")
    if arguments.grid:
        from fmx.reporting.figures.fonts import drawable

        figure = draw_pairs(found, drawable(data.class_names, data.english_names))
        if figure is None:
            print("no grid: there are no pairs")
            return
        with new_file(arguments.grid, force=arguments.force) as temporary:
            figure.savefig(temporary, format="png", dpi=110)
        print(f"wrote {arguments.grid}")


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


def _print_summary(data: "ImageDataModule", node: "DictConfig", read: "dict[str, ImageArrays]") -> None:
    from math import prod

    from fmx.data.arrays import mean_and_std
    from fmx.data.duplicates import common_images
    from fmx.data.paired_test_images import TEST, TRAINING
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
    training, testing = (
        read.get(name) or _in_memory(data.sources[part])  # type: ignore[index]
        for name, part in ((TRAINING, "train"), (TEST, "test"))
    )
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
