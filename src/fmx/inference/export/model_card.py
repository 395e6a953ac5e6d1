"""The model card of an exported file: its input, its output and its accuracy."""

import hashlib
import html
import json
import re
from collections.abc import Sequence
from importlib import metadata
from typing import Any

from fmx.config.printed_command import printed_command
from fmx.data.picture import MODES, RESIZES
from fmx.inference.export.signature import Signature
from fmx.process.table import printable
from fmx.process.version import __version__
from fmx.runs.calibration import Calibration
from fmx.runs.command_again import command_again
from fmx.runs.run_dir import Run

__all__ = ["model_card"]

PACKAGES = {
    "onnx": ["torch", "onnx", "onnxscript", "onnxruntime", "fmx"],
    "pt2": ["torch", "fmx"],
    "torchscript": ["torch", "fmx"],
    "state_dict": ["torch", "fmx"],
}
USE = {
    "onnx": """\
```python
import numpy as np, onnxruntime
session = onnxruntime.InferenceSession({file})
logits, = session.run(None, {{"{input}": images}})  # images: {dtype} (N, {shape})
```

or {predict}, which needs this file alone.
""",
    "pt2": """\
```python
import torch
model = torch.export.load({file}).module()
logits = model(images)  # images: {dtype} (N, {shape})
```

The classes and the input are in the extra file `fmx.json` inside.
""",
    "torchscript": """\
```python
import torch
model = torch.jit.load({file})
logits = model(images)  # images: {dtype} (N, {shape})
```

The classes and the input are in the extra file `fmx.json` inside. TorchScript is deprecated; `fmx export --format pt2`
writes its successor.
""",
    "state_dict": """\
```python
import torch
net.load_state_dict(torch.load({file}, weights_only=True))  # net: the {model} below
logits = net.eval()(images)  # images: {dtype} (N, {shape})
```

The network: `{network}`
""",
}


REFUSED = " Another type of numbers, number of channels or size is an error."


def model_card(
    *,
    run: Run,
    signature: Signature,
    file: str,
    contents: bytes,
    form: str,
    network: Any,
    num_params: int,
    checkpoint: str,
    agreement: str,
    command: str,
    calibration: Calibration | None = None,
    members: Sequence[str] = (),
) -> str:
    """Return the Markdown page of an exported file.

    form: onnx, pt2, torchscript or state_dict; network: the part of the configuration that it is built from;
    agreement: the result of the parity check; calibration: whose temperature the file holds, if any; command: the one
    that wrote the file; members: the names of an ensemble's runs.
    """
    facts = {
        "run": _code(run.path.name),
        "parameters": f"{num_params:,}",
        "checkpoint": _code(checkpoint),
        **_metrics(run, checkpoint),
        **_calibration(calibration),
        "data": f"{_text(signature.data)}, fingerprint {_code(run.recorded(str, 'data', 'fingerprint'))}",
        "agreement": _text(agreement),
        "trained by": _code(command_again(run)),
        "exported by": _code(command),
        "trained with": _text(", ".join(f"{k} {v}" for k, v in run.recorded(dict, "versions").items())),
        "exported with": _text(", ".join(f"{name} {_version(name)}" for name in PACKAGES[form])),
        "SHA-256": _code(hashlib.sha256(contents).hexdigest()),
    }
    if len(members) > 1:
        facts["checkpoint"] = "of each member the one that it tested"
        facts["members"] = f"mean probability of {len(members)} networks: {', '.join(map(_code, members))}"
    inside, shape = signature.normalize == "inside", ", ".join(map(str, signature.shape))
    use = USE[form].format(
        file=printable(json.dumps(file, ensure_ascii=False)),
        input="pixels" if inside else "images",
        dtype=signature.input_dtype,
        shape=shape,
        model=printable(signature.model),
        predict=_code(f"{printed_command('fmx', 'predict', file)} IMAGE…"),
        network=printable(network).replace("`", "'"),
    )
    logs = " that are the logarithms of mean probabilities" if len(members) > 1 else ""
    divided = logs if calibration is None else f"{logs}, divided by the temperature"
    return "\n".join([
        f"# {_text(signature.model)}, trained on {_text(signature.data)}\n",
        "| | |\n|---|---|",
        *(f"| {name} | {value} |" for name, value in facts.items()),
        f"\n## Input\n\n{_input(signature, shape)}{'' if form == 'state_dict' else REFUSED}",
        f"\n## Output\n\nLogits float32 (N, {len(signature.class_names)}){divided}; their softmax are probabilities.\n",
        "| | class |\n|---|---|",
        *(f"| {label} | {_text(name)} |" for label, name in enumerate(signature.class_names)),
        f"\n## Use\n\n{use}",
    ])  # fmt: skip


def _version(package: str) -> str:
    return __version__ if package == "fmx" else metadata.version(package)  # fmx may be a folder on PYTHONPATH


def _metrics(run: Run, checkpoint: str) -> dict[str, str]:
    """The run's metrics, if they are those of these weights."""
    if checkpoint != run.tested:
        return {"accuracy": f"not scored: the run's metrics are those of {_code(run.tested)}"}
    metrics = run.metrics
    chosen = {
        "val": "on validation",
        "test": "on the test set itself, so it flatters",
        "last": "as the last one",
    }
    lines = {}
    on_test = metrics.get("validation") == "test"
    validation = "accuracy on validation, which was the test set" if on_test else "validation accuracy"
    for part, name in [("test", "test accuracy"), ("val", validation)]:
        accuracy = metrics[part].get("accuracy") if isinstance(metrics.get(part), dict) else None
        if isinstance(accuracy, float):
            lines[name] = f"{100 * accuracy:.2f} %"
    how = chosen.get(str(metrics.get("selected_on")), "in a way that is not recorded")
    return lines | {"checkpoint chosen": how}


def _calibration(calibration: Calibration | None) -> dict[str, str]:
    """The temperature, and the expected calibration error on the test set before and with it."""
    if calibration is None:
        return {}
    before, after = (calibration.parts["test"][state].ece for state in ("trained", "calibrated"))
    return {
        "temperature": f"{calibration.temperature:.4g}, fitted on {calibration.num_val:,} validation images",
        "calibration error": f"ECE {100 * after:.2f} % on the test set; {100 * before:.2f} % without the temperature",
    }


def _input(signature: Signature, shape: str) -> str:
    low, high = (f"{value:g}" for value in signature.value_range)
    if signature.normalize == "inside":
        pixels = f"Pixels {signature.dtype} (N, {shape}) from {low} to {high}"
        text = f"{pixels}, as in the data set; the normalisation is inside."
    else:
        unit = f"pixel / {high}" if low == "0" else f"(pixel - {low}) / ({high} - {low})"
        text = (
            f"float32 (N, {shape}): pixels from {low} to {high}, then ({unit} - mean) / std with mean "
            f"{signature.mean} and std {signature.std}. Images with another normalisation get wrong results."
        )
    if signature.in_channels in MODES:
        text += f" By `fmx predict`, a picture of another size is {RESIZES[signature.fit]}."
    ground = " Light things on a dark ground, as in the training set." if signature.light_on_dark else ""
    return text + ground


def _text(text: object) -> str:
    """Text escaped for Markdown and HTML."""
    return re.sub(r"([\\`*_\[\]|~])", r"\\\1", html.escape(printable(text), quote=False))


def _code(text: object) -> str:
    """Inline code, escaped for a table cell."""
    plain = printable(text).replace("|", r"\|")
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", plain)), default=0))
    pad = " " if "`" in plain else ""
    return f"{fence}{pad}{plain}{pad}{fence}"
