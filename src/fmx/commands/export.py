"""`fmx export`: write a trained model as one file for other programs, with its predictions verified."""

import argparse
import re
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from fmx.commands.verb_parser import VerbParser
from fmx.config.printed_command import printed_command
from fmx.errors import ConfigError, DataError
from fmx.process.exits import plain_exits
from fmx.process.start import as_command

if TYPE_CHECKING:
    from omegaconf import DictConfig
    from torch import nn

    from fmx.data.module import ImageDataModule
    from fmx.inference.export.onnx_model import Logits
    from fmx.inference.export.parity import Reference
    from fmx.inference.export.signature import Signature
    from fmx.runs.run_dir import Run

__all__ = ["main", "make_parser"]

DESCRIPTION = """\
Write a run's model as one file for other programs, with a model card next to it (FILE.md).

onnx         for onnxruntime and the like; any number of images at a time; classes, input size and
             normalisation are in the file's metadata: `fmx predict FILE.onnx IMAGE…` needs nothing else
pt2          torch.export's: for Python without fmx, and for torch's compilers
torchscript  for C++ programs that have a runtime for it; torch has deprecated TorchScript, pt2 is its successor
state_dict   the network's weights alone, for torch.load(..., weights_only=True)

With the normalisation inside (the default) the input is uint8 pixels (N, C, H, W) from 0 to 255; outside, it
is float32 that the caller has normalised. Images of another type, shape or number of channels are an error,
not an answer. The file is kept only if it gives every test image the class that
the run gave it; where the data set is not at hand, random images stand in for it, and the card says so.
--calibrated puts the temperature of `fmx evaluate RUN --calibration` into the file: its logits are divided by it.
"""
EXAMPLES = """\
examples:
  fmx export outputs/latest
  fmx export outputs/latest --format pt2 --out clothes.pt2
  fmx export outputs/latest --normalise outside --opset 20 --force
"""
SUFFIXES = {"onnx": ".onnx", "pt2": ".pt2", "torchscript": ".torchscript.pt", "state_dict": ".state_dict.pt"}
NAMES = {"onnx": "an ONNX", "pt2": "a pt2"}
OPSETS = range(18, 100)  # the minimum of torch's exporter
NUM_RANDOM = 256


def main() -> None:
    """Run the command line and end with one of fmx's exit codes."""
    with plain_exits():
        export(_arguments())


def make_parser() -> VerbParser:
    """The verb's options and arguments."""
    parser = VerbParser("export", description=DESCRIPTION, examples=EXAMPLES)
    parser.add_argument("run", type=Path, metavar="RUN", help="a finished run's directory")
    parser.add_argument("root", nargs="?", metavar="data.root=DIR", help="where its data lies now (or FMX_DATA_ROOT)")
    parser.add_argument("--format", choices=list(SUFFIXES), default="onnx", help="(onnx)")
    parser.add_argument(
        "--normalise",
        "--normalize",
        choices=["inside", "outside"],
        help="whether the file normalises pixels itself (inside)",
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="(MODEL_DATA with the format's suffix, here)")
    parser.add_argument("--opset", type=int, help="ONNX operator set (18)")
    parser.add_argument("--calibrated", action="store_true", help="with the temperature of fmx evaluate --calibration")
    parser.add_argument("--checkpoint", metavar="best|last|FILE", help="other weights than those that were tested")
    parser.add_argument("--force", action="store_true", help="replace files that exist")
    parser.add_argument("--allow", action="append", default=[], metavar="PACKAGE", help="trust code the run names")
    return parser


def _arguments() -> argparse.Namespace:
    parser = make_parser()
    args = parser.parse_intermixed_args()
    if args.opset is not None and (args.format != "onnx" or args.opset not in OPSETS):
        parser.error("--opset is for ONNX, a number from 18")
    if args.format == "state_dict" and args.normalise == "inside":
        parser.error("a state_dict holds weights alone: the normalisation stays outside")
    if args.format == "state_dict" and args.calibrated:
        parser.error("a state_dict holds weights alone, no temperature: leave out --calibrated")
    for form in ("onnx", "pt2"):
        if args.format == form and args.out is not None and args.out.suffix != SUFFIXES[form]:
            parser.error(f"--out: {NAMES[form]} file is called something{SUFFIXES[form]}, not {args.out.name}")
    return args


def export(args: argparse.Namespace) -> None:
    """Write the file and its model card; both are kept only if the file's predictions agree."""
    if args.format == "onnx":
        from fmx.inference.export.onnx_model import require

        require("onnx", "onnxscript", "onnxruntime")
    from omegaconf import OmegaConf

    from fmx.inference.export.model_card import model_card
    from fmx.inference.export.parity import check_parity
    from fmx.inference.export.pixel_net import torch_logits
    from fmx.runs.calibration import needed_calibration
    from fmx.runs.ensemble import weights_digest
    from fmx.runs.new_file import new_file, refuse_existing
    from fmx.runs.run_dir import open_run

    run = open_run(args.run)
    parts = _parts(run, args)
    signature = parts.signature
    file = args.out or Path(_file_name(signature) + SUFFIXES[args.format])
    card = file.with_name(f"{file.name}.md")
    for path in (file, card):
        refuse_existing(path, force=args.force)
    checkpoint = args.checkpoint or run.tested
    calibration = needed_calibration(args.run, weights_digest(run, args.checkpoint)) if args.calibrated else None
    if calibration is not None:
        signature = replace(signature, temperature=calibration.temperature)
    bare, whole = _networks(parts, signature, args)
    reference = _reference(run, parts.configs[0], signature, torch_logits(whole), tested=checkpoint == run.tested)
    with new_file(file, force=args.force) as written, new_file(card, force=args.force) as page:
        exported = _write(whole if bare is None else bare, signature, written, args)
        agreement = check_parity(exported, reference)
        text = model_card(
            run=run,
            signature=signature,
            file=file.name,
            contents=written.read_bytes(),
            form=args.format,
            network=OmegaConf.to_container(parts.configs[0].model.net),
            num_params=sum(parameter.numel() for parameter in whole.parameters()),
            members=[member.path.name for member in parts.members],
            checkpoint=checkpoint,
            agreement=agreement,
            calibration=calibration,
            command=printed_command("fmx", "export", *sys.argv[1:]),
        )
        page.write_text(text, encoding="utf-8")
    print(f"{file}: {signature.model} as {args.format}, {file.stat().st_size:,} bytes")
    print(agreement)
    print(f"{card}: the model card, with inputs, outputs and metrics")


@dataclass(frozen=True)
class _Parts:
    """A run, or the runs of an ensemble, with their configurations and signatures; and the signature of the file."""

    members: "list[Run]"
    configs: "list[DictConfig]"
    signatures: "list[Signature]"
    signature: "Signature"


def _parts(run: "Run", args: argparse.Namespace) -> _Parts:
    """What is exported, as far as its files say; ConfigError, DataError for members that one file cannot hold."""
    from fmx.inference.export.signature import signature_of
    from fmx.runs.ensemble import is_ensemble, open_members, refuse_checkpoint
    from fmx.runs.trusted_config import trusted_config

    outside = args.normalise == "outside" or args.format == "state_dict"
    together = is_ensemble(run.path)
    if together:
        refuse_checkpoint(args.run, args.checkpoint)
        if outside:
            what = "--format state_dict" if args.format == "state_dict" else "--normalise outside"
            raise ConfigError(f"{args.run} is an ensemble, whose networks normalise by themselves: leave out {what}")
    members = open_members(run.path) if together else [run]
    configs = [trusted_config(each, args.allow, root=args.root, trains=False) for each in members]
    signatures = [
        signature_of(config, normalize="outside" if outside else "inside", record=each.record)
        for config, each in zip(configs, members, strict=True)
    ]
    shapes = {(each.shape, each.dtype, *each.value_range) for each in signatures}
    if len(shapes) > 1:
        sizes = sorted({" x ".join(map(str, each.shape)) for each in signatures})
        raise DataError(
            f"the members of {args.run} take different images ({', '.join(sizes)}), and one file takes one kind: make "
            "an ensemble of members of one size with fmx ensemble; fmx predict takes this one as it is"
        )
    named = replace(signatures[0], model=run.recorded(str, "model")) if together else signatures[0]
    return _Parts(members, configs, signatures, named)


def _networks(parts: _Parts, signature: "Signature", args: argparse.Namespace) -> "tuple[nn.Module | None, nn.Module]":
    """The network that takes normalised images, where that is wanted, and the one that takes pixels."""
    from torch import nn

    from fmx.inference.calibration import tempered
    from fmx.inference.ensemble import EnsembleNet
    from fmx.inference.export.pixel_net import PixelNet
    from fmx.training.restore import restore_classifier

    nets = [
        restore_classifier(config, member.checkpoint(args.checkpoint or member.tested)).net
        for config, member in zip(parts.configs, parts.members, strict=True)
    ]
    if len(nets) > 1:
        whole = [PixelNet(each.normalization(), net) for each, net in zip(parts.signatures, nets, strict=True)]
        return None, tempered(EnsembleNet(whole), signature.temperature).eval()
    net = tempered(nets[0], signature.temperature)
    bare = None
    if signature.normalize == "outside":
        bare = net if args.format == "state_dict" else PixelNet(nn.Identity(), net)
    return bare, PixelNet(signature.normalization(), net)


def _file_name(signature: "Signature") -> str:
    """A file name made from model and data, without path separators."""
    return re.sub(r"[^\w-]+", "_", f"{signature.model}_{signature.data}")


def _write(module: "nn.Module", signature: "Signature", path: Path, args: argparse.Namespace) -> "Logits":
    """Write one of the formats; returns it read back as a function from pixels to logits."""
    if args.format == "onnx":
        from fmx.inference.export.onnx_model import DEFAULT_OPSET, open_onnx, write_onnx

        write_onnx(module, signature, path, opset=args.opset or DEFAULT_OPSET)
        return open_onnx(path)[1]
    if args.format == "pt2":
        from fmx.inference.export.exported_program import open_exported_program, write_exported_program

        write_exported_program(module, signature, path)
        return open_exported_program(path, signature)
    if args.format == "torchscript":
        from fmx.inference.export.torchscript import open_torchscript, write_torchscript

        write_torchscript(module, signature, path)
        return open_torchscript(path, signature)
    from fmx.inference.export.state_dict import open_state_dict, write_state_dict

    write_state_dict(module, path)
    return open_state_dict(module, signature, path)


def _reference(run: "Run", config: "DictConfig", signature: "Signature", own: "Logits", *, tested: bool) -> "Reference":
    """The predictions to compare with: the run's own, else those of `own` on the test set or on random images."""
    import torch

    from fmx.data.module import Pictures
    from fmx.inference.export.parity import Reference, logits_of
    from fmx.inference.scoring import Predictions

    data = _data_at_hand(run, config)
    if data is None:
        shape = (NUM_RANDOM, *signature.shape)
        noise = torch.randint(256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        images = list(noise if signature.dtype == "uint8" else signature.as_in_data(noise / 255))
        return Reference(images, "random images", logits_of(own, images))
    if not tested:
        pictures = Pictures(data.sources["test"], data.indices["test"], signature.stored)
        return Reference(pictures, "test images", logits_of(own, pictures))
    stored = Predictions.load(run.path / "predictions.npz")
    labels, count = data.labels("test"), len(stored.labels)
    if not torch.equal(stored.labels, labels[:count]) or stored.logits.shape[1] != data.num_classes:
        raise DataError(f"{run.path / 'predictions.npz'} is not of this run's test set")
    pictures = Pictures(data.sources["test"], data.indices["test"][:count], signature.stored)
    from_gpu = run.recorded(str, "device", "accelerator") != "cpu"
    logits = (stored.logits / signature.temperature).numpy()
    return Reference(pictures, "test images", logits, from_gpu=from_gpu)


def _data_at_hand(run: "Run", config: "DictConfig") -> "ImageDataModule | None":
    """The run's data set if it is on this machine and unchanged; else None, after printing why."""
    from fmx.process.table import printable
    from fmx.training.restore import restore_data

    config = config.copy()
    for part in (config.data.train, config.data.test, config.data.val):
        if part is not None and "mirrors" in part:
            part.mirrors = []  # an export downloads nothing
    try:
        data = restore_data(config)
    except DataError as error:
        reason = str(error).partition("\n")[0]
    else:
        if data.has_fingerprint(run.recorded(str, "data", "fingerprint")):
            return data
        reason = f"{config.data.root} holds other images than the run was trained and tested on"
    print(f"proven on random images alone, because the test set is not at hand: {printable(reason)}", file=sys.stderr)
    return None


if __name__ == "__main__":
    as_command(main)
