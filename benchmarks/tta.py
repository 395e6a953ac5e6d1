"""What the views of test-time augmentation gain: the accuracy of finished runs on their held-out images.

    python benchmarks/tta.py RUN …

RUN: run directories of model=cosine_resnet with data.validation > 0; their last checkpoints are judged with each kind
of `model.net.tta`. The test set plays no part in it. The numbers in
docs/performance_notes.md are of two runs of time_to_accuracy.py's command for 94 %, one of them with
trainer.max_epochs=16, and besides

    data.validation=10000 seed=1 trainer.limit_test_batches=1
"""

import argparse
import logging
from pathlib import Path

import torch

from fmx.inference.scoring import predict
from fmx.models.views import VIEWS
from fmx.runs.composition import register_resolvers
from fmx.runs.run_dir import open_run
from fmx.runs.trusted_config import trusted_config
from fmx.training.restore import restore_classifier, restore_data


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    register_resolvers()
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    for path in parser.parse_args().runs:
        config = trusted_config(open_run(path))
        data = restore_data(config)
        for kind in VIEWS:
            config.model.net.tta = kind
            classifier = restore_classifier(config, path / "checkpoints" / "last.ckpt")
            judged = predict(classifier, data, "val", device=torch.device("cpu"))
            accuracy = (judged.logits.argmax(1) == judged.labels).double().mean().item()
            print(f"{path}: tta={kind} {100 * accuracy:.2f} % of {len(judged.labels):,} held-out images", flush=True)


if __name__ == "__main__":
    main()
