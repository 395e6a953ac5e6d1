"""`fmx predict`: classify pictures with a trained model."""

import argparse
import csv
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fmx.commands.verb_parser import VerbParser
from fmx.errors import ConfigError, DataError
from fmx.process.exits import plain_exits
from fmx.process.start import as_command

if TYPE_CHECKING:
    from fmx.inference.export.onnx_model import Logits
    from fmx.inference.export.signature import Signature
    from fmx.inference.images import Picture

__all__ = ["main", "make_parser"]

DESCRIPTION = """\
Classify pictures with a trained model: files, folders (with their subfolders) and globs, of any size and mode.
No data set is needed.

A picture is converted to the model's input: grey or colour; as large as fits into the model's images, centred on
a ground of its border's colour (or as training did: data=image_folder stretches, pads or crops by data.resize,
fmx.data.in_memory stretches). The camera's orientation is applied. Crop the picture first if its subject is
small. Fashion-MNIST shows light things on black: for such models --invert auto inverts a
picture if more than two thirds of its border are bright, after placing dark subjects with a transparent
background on white. A grey picture of the model's own size with a dark border passes unchanged. Files that cannot be
read, HEIC and AVIF among them, are named and left out, and the exit code is then 1. Other files in a folder,
such as hidden files and texts, are counted.

--calibrated divides the logits by the temperature that `fmx evaluate RUN --calibration` fitted: other probabilities,
the same classes.
"""
EXAMPLES = """\
examples:
  fmx predict outputs/latest photo.jpg
  fmx predict outputs/latest pictures/ 'more/*.png' --top 5 --csv said.csv --grid said.png
  fmx predict model.onnx scan.png --invert no        a file that fmx export wrote
"""
CHUNK = 64  # pictures per batch
MAX_TILES = 96


@dataclass(frozen=True)
class ClassifiedPicture:
    """A picture with its classes, most probable first, and their probabilities."""

    picture: "Picture"
    classes: list[int]
    probs: list[float]


def main() -> None:
    """Run the command line and end with one of fmx's exit codes."""
    with plain_exits():
        sys.exit(predict(_arguments()))


def make_parser() -> VerbParser:
    """The verb's options and arguments."""
    parser = VerbParser("predict", description=DESCRIPTION, examples=EXAMPLES)
    parser.add_argument("model", type=Path, metavar="RUN|FILE.onnx", help="a run directory, or what fmx export wrote")
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="files, folders, globs")
    parser.add_argument("--top", type=_count, default=3, metavar="K", help="how many classes to name (3)")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write the table with all digits")
    parser.add_argument("--grid", type=Path, metavar="FILE.png", help="draw the pictures as the model saw them")
    parser.add_argument("--invert", choices=["auto", "yes", "no"], default="auto", help="invert brightness (auto)")
    parser.add_argument("--calibrated", action="store_true", help="use the temperature of fmx evaluate --calibration")
    parser.add_argument("--checkpoint", metavar="best|last|FILE", help="other weights than those that were tested")
    parser.add_argument("--force", action="store_true", help="replace files that exist")
    parser.add_argument("--allow", action="append", default=[], metavar="PACKAGE", help="trust code that the run names")
    return parser


def _arguments() -> argparse.Namespace:
    return make_parser().parse_intermixed_args()


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1")
    return int(text)


def predict(args: argparse.Namespace) -> int:
    """Classify, print the table and write the files; returns 1 where a picture could not be read, else 0."""
    from fmx.inference.images import find_pictures
    from fmx.process.table import printable
    from fmx.runs.new_file import refuse_existing

    if args.grid is not None and args.grid.suffix.lower() != ".png":
        raise ConfigError(f"--grid writes PNG: name it {args.grid.with_suffix('.png')}")
    for path in filter(None, [args.csv, args.grid]):
        refuse_existing(path, force=args.force)
    files, problems, notes = find_pictures(args.images)
    models, temperature = _open(args)
    signature = models[0][0]
    results = list(_classify(files, models, temperature, args, problems)) if files else []
    for problem in [*notes, *problems]:
        print(f"left out: {printable(problem)}", file=sys.stderr)
    if not results:
        raise DataError("there are no pictures to predict")
    _print(results, signature)
    if len(models) > 1:
        print(f"mean probabilities of {len(models)} networks")
    if (used := temperature * signature.temperature) != 1:
        print(f"probabilities with temperature {used:.4g}, fitted on validation images")
    if args.csv is not None:
        _write_csv(results, signature, args)
    if args.grid is not None:
        _draw(results, signature, args)
    return 1 if problems else 0


def _open(args: argparse.Namespace) -> "tuple[list[tuple[Signature, Logits]], float]":
    """The networks whose mean probability is wanted, and the temperature to divide its logarithm by."""
    if args.model.suffix == ".onnx":
        from fmx.inference.export.onnx_model import open_onnx

        if args.checkpoint is not None:
            raise ConfigError(f"{args.model} holds one set of weights; --checkpoint is for run directories")
        if args.calibrated:
            raise ConfigError(
                f"{args.model} has a temperature inside, or none: --calibrated is for run directories, and for "
                "fmx export"
            )
        return [open_onnx(args.model)], 1.0
    if args.model.is_file():
        raise ConfigError(
            f"{args.model}: predict reads run directories and the ONNX files of fmx export (--format onnx) alone"
        )
    from fmx.inference.export.pixel_net import open_trained, torch_logits
    from fmx.runs.calibration import needed_calibration
    from fmx.runs.ensemble import weights_digest
    from fmx.runs.run_dir import open_run

    opened = open_trained(args.model, checkpoint=args.checkpoint, allow=args.allow)
    temperature = 1.0
    if args.calibrated:
        weights = weights_digest(open_run(args.model), args.checkpoint)
        temperature = needed_calibration(args.model, weights).temperature
    return [(signature, torch_logits(model)) for signature, model in opened], temperature


def _classify(
    files: Sequence[Path],
    models: "Sequence[tuple[Signature, Logits]]",
    temperature: float,
    args: argparse.Namespace,
    problems: list[str],
) -> Iterator[ClassifiedPicture]:
    """Classify the files in batches; messages for unreadable files are added to `problems`.

    Each network of an ensemble gets the pictures in its own size and mode; they are shown as the first one gets them.
    """
    import numpy as np
    from scipy.special import softmax

    from fmx.inference.calibration import with_temperature
    from fmx.inference.images import prepare

    kinds = [next(at for at, (other, _) in enumerate(models) if _same_input(own, other)) for own, _ in models]
    for first in range(0, len(files), CHUNK):
        pictures: list[dict[int, Picture]] = []
        for file in files[first : first + CHUNK]:
            try:
                pictures.append({kind: prepare(file, models[kind][0], args.invert) for kind in {*kinds}})
            except DataError as error:
                problems.append(str(error))
        if not pictures:
            continue
        each = [
            softmax(logits(np.stack([picture[kind].pixels for picture in pictures])).astype(np.float64), axis=1)
            for kind, (_, logits) in zip(kinds, models, strict=True)
        ]
        probs = with_temperature(np.mean(each, axis=0) if len(each) > 1 else each[0], temperature)
        order = np.argsort(-probs, axis=1, kind="stable")[:, : args.top]
        for picture, row, classes in zip((prepared[0] for prepared in pictures), probs, order, strict=True):
            yield ClassifiedPicture(picture, classes.tolist(), row[classes].tolist())


def _same_input(a: "Signature", b: "Signature") -> bool:
    """Whether two networks get a picture in the same size, mode and type."""
    names = ("shape", "fit", "light_on_dark", "dtype", "value_range")
    return all(getattr(a, name) == getattr(b, name) for name in names)


def _print(results: Sequence[ClassifiedPicture], signature: "Signature") -> None:
    from fmx.process.table import print_table

    inverts = any(result.picture.inverted for result in results)
    rows = []
    for result in results:
        row = [str(result.picture.path)]
        for label, prob in zip(result.classes, result.probs, strict=True):
            row.append(f"{100 * prob:5.1f} % {signature.class_names[label]}")
        rows.append(row + (["yes" if result.picture.inverted else ""] if inverts else []))
    ranks = [f"class {rank}" for rank in range(1, len(results[0].classes) + 1)]
    columns = ["image", *ranks, *(["inverted"] if inverts else [])]
    print_table(columns, rows, num_left=len(columns))


def _write_csv(results: Sequence[ClassifiedPicture], signature: "Signature", args: argparse.Namespace) -> None:
    from fmx.runs.new_file import new_file

    ranks = range(1, len(results[0].classes) + 1)
    header = [
        "image",
        "inverted",
        *(name for rank in ranks for name in (f"class_{rank}", f"probability_{rank}")),
    ]
    with (
        new_file(args.csv, force=args.force) as temporary,
        temporary.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file,
    ):
        writer = csv.writer(file)
        writer.writerow(header)
        for result in results:
            row: list[Any] = [str(result.picture.path), "yes" if result.picture.inverted else "no"]
            for label, prob in zip(result.classes, result.probs, strict=True):
                row += [signature.class_names[label], repr(prob)]
            writer.writerow(row)


def _draw(results: Sequence[ClassifiedPicture], signature: "Signature", args: argparse.Namespace) -> None:
    """Draw the first pictures as the model saw them, with file name, class and probability."""
    import numpy as np

    from fmx.reporting.figures.fonts import drawable
    from fmx.reporting.figures.image_grid import Caption, Tile, image_grid
    from fmx.reporting.figures.lettering import Lettering
    from fmx.reporting.figures.palette import BLUE, GREY
    from fmx.runs.new_file import new_file

    shown = results[:MAX_TILES]
    names = drawable(signature.class_names, signature.english_names)
    lettering = Lettering([*names, *(v.picture.path.name for v in shown)])
    tiles = [
        Tile(
            np.uint8(np.rint(255 * signature.in_unit_range(v.picture.pixels)).clip(0, 255)),
            [
                Caption(file, GREY),
                Caption(lettering.names[v.classes[0]], BLUE),
                Caption(f"{100 * v.probs[0]:.1f} %"),
            ],
        )
        for v, file in zip(shown, lettering.names[len(names) :], strict=True)
    ]
    title = f"{len(shown)} of {len(results):,} pictures" if len(shown) < len(results) else f"{len(shown)} pictures"
    figure = image_grid(tiles, lettering, title=title, subtitle=f"as {signature.model} saw them, and what it says")
    with new_file(args.grid, force=args.force) as temporary:
        figure.savefig(temporary, format="png")


if __name__ == "__main__":
    as_command(main)
