"""Run directories made by hand: the files that the tables read, without the training."""

import json

import numpy as np
import yaml

NAMES = ["cat", "dog", "owl"]
MODELS = {
    "small": {"name": "small", "net": {"_target_": "fmx.models.mlp.MLP", "hidden_sizes": [8]}},
    "large": {"name": "large", "net": {"_target_": "fmx.models.lenet.LeNet", "widths": [6, 16]}},
}


def make_run(path, *, said=None, labels=None, indices=None, val=0.9, seed=1, model="small", status="completed",
             validation=0.15, selected_on="val", names=NAMES, fingerprint="f" * 32, settings=None, choices=None,
             params=100, fit_s=2.0, epochs=3, macro_f1=0.5, **record):  # fmt: skip
    """Write a run directory whose test predictions are `said` (N,) of `labels` (N,); `val` is an accuracy or None."""
    labels = np.arange(30) % len(names) if labels is None else np.asarray(labels)
    said = labels if said is None else np.asarray(said)
    indices = np.arange(len(labels)) if indices is None else np.asarray(indices)
    resolved = {
        "seed": seed, "run_dir": str(path), "resume": None, "data": {"name": "pets", "root": f"/data/{seed}",
        "folder": f"/data/{seed}/pets"}, "model": MODELS[model], "optim": {"_target_": "torch.optim.Adam", "lr": 0.001},
    }  # fmt: skip
    for key, value in (settings or {}).items():
        node = resolved
        *parents, last = key.split(".")
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value
    written = json.loads(json.dumps(resolved))
    written["data"]["folder"] = "${data.root}/pets"
    runtime = {"choices": {"model": model, "data": "pets", "optim": "adam", "hydra/help": "fmx"} | (choices or {})}
    for name, contents in {"resolved": resolved, "config": written, "hydra": {"hydra": {"runtime": runtime}}}.items():
        (path / ".hydra").mkdir(parents=True, exist_ok=True)
        (path / ".hydra" / f"{name}.yaml").write_text(yaml.safe_dump(contents), encoding="utf-8")
    write(path / "run.json", {
        "status": status, "command": "python -m fmx.run", "overrides": [f"seed={seed}", f"model={model}"], "seed": seed,
        "started": "2026-01-01T00:00:00+0000", "host": "elsewhere", "git": None, "error": None, "params": params,
        "versions": {"python": "3.11.7", "torch": "2.15.0"}, "device": {"accelerator": "cpu", "precision": "32-true"},
        "timing": {"fit_s": fit_s}, "data": {"name": "pets", "sizes": {"train": 70, "val": 20, "test": len(labels)},
        "fingerprint": fingerprint, "split_fingerprint": "a" * 32},
    } | record)  # fmt: skip
    if status != "completed":
        return path
    figures = {"accuracy": float((said == labels).mean()), "macro_f1": macro_f1, "loss": 1.0}
    figures["per_class"] = dict.fromkeys(names, 1.0)
    write(path / "metrics.json", {
        "val": None if val is None else figures | {"accuracy": val}, "test": figures, "selected_on": selected_on,
        "validation": validation,
    })  # fmt: skip
    logits = np.full((len(labels), len(names)), -1, np.float32)
    logits[np.arange(len(labels)), said] = 2
    np.savez(path / "predictions.npz", labels=labels, logits=logits, indices=indices)
    lines = ["epoch,step,lr,train/loss,train/accuracy,val/loss,val/accuracy,seconds"]
    top = val or 0.8
    for epoch in range(1, epochs + 1):
        share = top * (1 - 0.5**epoch + 0.5**epochs)
        lines.append(f"{epoch},{10 * epoch},0.001,{1.2 - share},{share},{1.25 - share},{share},0.5")
    (path / "history.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def write(path, contents):
    path.write_text(json.dumps(contents), encoding="utf-8")


def wrong_at(places, num=30, num_classes=3):
    """What a model says that is right but in these places."""
    said = np.arange(num) % num_classes
    said[list(places)] = (said[list(places)] + 1) % num_classes
    return said
