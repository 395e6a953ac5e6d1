"""Whether two runs came to the same, to the bit."""

import json

import numpy as np
import pandas as pd
import torch

from fmx.runs.checkpoint_files import load_checkpoint


def assert_same(ours, theirs):
    """History (but its seconds), metrics, logits, both checkpoints' weights and the optimizer's state."""
    histories = [pd.read_csv(run / "history.csv").drop(columns="seconds") for run in (ours, theirs)]
    pd.testing.assert_frame_equal(*histories, check_exact=True)
    one, other = (json.loads((run / "metrics.json").read_text()) for run in (ours, theirs))
    assert one == other
    one, other = (np.load(run / "predictions.npz") for run in (ours, theirs))
    np.testing.assert_array_equal(one["logits"], other["logits"])
    for name in ("best", "last"):
        one, other = (load_checkpoint(run / "checkpoints" / f"{name}.ckpt") for run in (ours, theirs))
        for part in ("state_dict", "optimizer_states", "lr_schedulers"):
            assert same(one[part], other[part]), (name, part)
    assert json.loads((ours / "run.json").read_text())["status"] == "completed"


def same(one, other):
    if isinstance(one, torch.Tensor):
        return one.equal(other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def points(run):
    """Every scalar's steps and values in the run's TensorBoard files, in the order of the curve."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = {}
    for folder, prefix in {"tensorboard": "", "tensorboard/train": "train/", "tensorboard/val": "val/"}.items():
        if not (run / folder).is_dir():  # nothing was held out
            continue
        events = EventAccumulator(str(run / folder), size_guidance={"scalars": 0})
        events.Reload()
        for tag in events.Tags()["scalars"]:
            found[prefix + tag] = [(each.step, each.value) for each in events.Scalars(tag)]
    return found
