"""`fmx explain`: where in a picture the evidence for a class is."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fmx.commands.verb_parser import VerbParser
from fmx.config.suggest import nearest
from fmx.errors import ConfigError, DataError
from fmx.process.exits import plain_exits
from fmx.process.start import as_command

if TYPE_CHECKING:
    from fmx.inference.export.pixel_net import PixelNet
    from fmx.inference.export.signature import Signature
    from fmx.inference.images import Picture
    from fmx.reporting.figures.explained import Explained

__all__ = ["main", "make_parser"]

DESCRIPTION = """\
Draw pictures beside heat maps that show where the evidence for a class is: Grad-CAM (Selvaraju et al. 2017,
arXiv:1610.02391), by captum, for networks with convolutions. It needs `pip install 'fmx[explain]'`.

A picture is converted to the model's input as by `fmx predict`. The heat map is that of the predicted class, or of
--class, at the last convolution whose output is more than one pixel large, or at --layer. It is as coarse as that
layer's output, and shows where the network looks, not whether that is right.
"""
EXAMPLES = """\
examples:
  fmx explain outputs/latest shoe.png --grid why.png
  fmx explain outputs/latest photos/ --grid why.png --class Sneaker
  fmx explain outputs/latest shoe.png --grid why.png --layer features.3
"""
MAX_PICTURES = 48
MAX_NAMED = 20  # classes that an error lists


def make_parser() -> VerbParser:
    """The verb's options and arguments."""
    parser = VerbParser("explain", description=DESCRIPTION, examples=EXAMPLES)
    parser.add_argument("run", type=Path, metavar="RUN", help="a run directory")
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="files, folders, globs")
    parser.add_argument("--grid", type=Path, required=True, metavar="FILE.png", help="the picture to draw")
    parser.add_argument("--class", dest="label", metavar="NAME", help="explain this class (the predicted one)")
    parser.add_argument("--layer", metavar="NAME", help="explain by this layer (the last convolution)")
    parser.add_argument("--invert", choices=["auto", "yes", "no"], default="auto", help="invert brightness (auto)")
    parser.add_argument("--checkpoint", metavar="best|last|FILE", help="other weights than those that were tested")
    parser.add_argument("--force", action="store_true", help="replace a file that exists")
    parser.add_argument("--allow", action="append", default=[], metavar="PACKAGE", help="trust code that the run names")
    return parser


def main() -> None:
    """Run the command line and end with one of fmx's exit codes."""
    arguments = make_parser().parse_intermixed_args()
    with plain_exits():
        sys.exit(explain(arguments))


def explain(args: argparse.Namespace) -> int:
    """Draw the pictures and print a table; returns 1 where a picture could not be read, else 0."""
    from fmx.inference.images import find_pictures
    from fmx.runs.new_file import refuse_existing

    if args.grid.suffix.lower() != ".png":
        raise ConfigError(f"--grid writes PNG: name it {args.grid.with_suffix('.png')}")
    if args.run.is_file():
        raise ConfigError(f"{args.run} is a file: explain needs the network itself, so name the run directory")
    refuse_existing(args.grid, force=args.force)
    files, problems, notes = find_pictures(args.images)

    from omegaconf import OmegaConf

    from fmx.inference.export.pixel_net import PixelNet
    from fmx.inference.export.signature import signature_of
    from fmx.inference.grad_cam import require_captum
    from fmx.inference.images import prepare
    from fmx.process.table import print_table, printable
    from fmx.reporting.figures.explained import explained
    from fmx.runs.new_file import new_file
    from fmx.runs.run_dir import open_run
    from fmx.runs.trusted_config import trusted_config
    from fmx.training.restore import restore_classifier

    run = open_run(args.run)
    config = trusted_config(run, args.allow, trains=False)
    signature = signature_of(config, normalize="inside", record=run.record)
    label = None if args.label is None else _label(args.label, signature)
    weights = run.checkpoint(args.checkpoint or run.tested)
    require_captum()
    if OmegaConf.select(config, "model.net.tta", default="none") != "none":
        config.model.net.tta = "none"
        notes.append("test-time augmentation, since a heat map is of one view of a picture")
    model = PixelNet(signature.normalization(), restore_classifier(config, weights).net).eval()
    pictures = []
    for file in files:
        try:
            pictures.append(prepare(file, signature, args.invert))
        except DataError as error:
            problems.append(str(error))
    if len(pictures) > MAX_PICTURES:
        notes.append(f"{len(pictures) - MAX_PICTURES:,} pictures, for the first {MAX_PICTURES} fill the page")
    for problem in [*notes, *problems]:
        print(f"left out: {printable(problem)}", file=sys.stderr)
    if not pictures:
        raise DataError("there are no pictures to explain")
    pictures = pictures[:MAX_PICTURES]
    drawn, layer = _explained(pictures, model, signature, label, args.layer)
    title = f"{len(drawn)} picture{'s' * (len(drawn) > 1)}"
    figure = explained(drawn, title=title, subtitle=f"as {signature.model} saw them, and Grad-CAM at {layer}")
    with new_file(args.grid, force=args.force) as temporary:
        figure.savefig(temporary, format="png")
    rows = [[str(file), " ".join(each.said[1:]), " ".join(each.asked)] for file, each in _with_paths(pictures, drawn)]
    print_table(["image", "class", "explained"], rows, num_left=3)
    print(printable(f"{args.grid}: Grad-CAM of {signature.model} at {layer}"))
    return 1 if problems else 0


def _with_paths(pictures: "Sequence[Picture]", drawn: "Sequence[Explained]") -> "zip[tuple[Path, Explained]]":
    return zip((picture.path for picture in pictures), drawn, strict=True)


def _label(name: str, signature: "Signature") -> int:
    """The number of a class by its name; ConfigError with the nearest one."""
    if name in signature.class_names:
        return signature.class_names.index(name)
    english = signature.english_names or []
    if name in english:
        return english.index(name)
    raise ConfigError(f"--class {name}: there is no such class{nearest(name, [*signature.class_names, *english])} "
                      f"Classes: {', '.join(signature.class_names[:MAX_NAMED])}"
                      f"{', …' if len(signature.class_names) > MAX_NAMED else ''}")  # fmt: skip


def _explained(
    pictures: "Sequence[Picture]", model: "PixelNet", signature: "Signature", label: int | None, layer: str | None
) -> "tuple[list[Explained], str]":
    """Each picture with its heat map and captions; and the layer, with the size of its output."""
    import numpy as np
    import torch

    from fmx.inference.grad_cam import choose_layer, heat_maps
    from fmx.reporting.figures.explained import Explained
    from fmx.reporting.figures.fonts import drawable

    names = drawable(signature.class_names, signature.english_names)
    pixels = torch.from_numpy(np.stack([picture.pixels for picture in pictures]))
    with torch.inference_mode():
        probs = model(pixels).float().softmax(dim=1)
        chosen, size = choose_layer(model.net, model.normalize(pixels[:1]), layer, model=signature.model)
    best = probs.argmax(dim=1).tolist()
    classes = best if label is None else [label] * len(best)
    heats = heat_maps(model, model.net.get_submodule(chosen), pixels, classes)
    if empty := int((heats.max(axis=(1, 2)) == 0).sum()):
        print(f"note: {empty} of {len(heats)} heat maps are empty: nothing at {chosen} speaks for the class",
              file=sys.stderr)  # fmt: skip
    if max(size) == 1:
        print(f"note: the output of {chosen} is one pixel large, so its heat maps are even: try an earlier --layer",
              file=sys.stderr)  # fmt: skip
    drawn = [
        Explained(
            picture=np.rint(255 * signature.in_unit_range(picture.pixels)).clip(0, 255).astype(np.uint8),
            heat=heat,
            said=[picture.path.name, names[predicted], f"{100 * float(row[predicted]):.1f} %"],
            asked=[f"for {names[asked]}", f"{100 * float(row[asked]):.1f} %"],
        )
        for picture, heat, row, predicted, asked in zip(pictures, heats, probs, best, classes, strict=True)
    ]
    return drawn, f"{chosen} ({size[0]} x {size[1]})"


if __name__ == "__main__":
    as_command(main)
