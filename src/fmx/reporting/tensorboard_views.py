"""What TensorBoard shows besides scalars and figures: text, graph, precision and recall, an embedding, hparams."""

import logging
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pytorch_lightning.loggers import TensorBoardLogger
from tensorboard.compat import tf
from torch import Tensor, nn

from fmx.compat import projector_config
from fmx.data.module import Pictures
from fmx.inference.scoring import Predictions
from fmx.reporting.figures.png import encode

__all__ = ["show_config", "show_embedding", "show_graph", "show_hparams", "show_pr_curves"]

log = logging.getLogger(__name__)

MAX_POINTS = 1000  # of the embedding; its sprite holds one picture each
MAX_NUMBERS = 10**6  # of the embedding, which is written as text
MAX_CURVES = 100  # of precision and recall; each costs a pass over the test set
SPRITE_SIDE = 28  # pixels
RGB = 3
TAG = "test"


def show_config(logger: TensorBoardLogger, yaml: str) -> None:
    """The composed configuration, in the Text tab."""
    logger.experiment.add_text("config", "\n".join(f"    {line}" for line in yaml.splitlines()), 0)


def show_graph(logger: TensorBoardLogger, net: nn.Module, input_shape: tuple[int, int, int]) -> None:
    """The network's operations, in the Graphs tab; nothing if it cannot be traced."""
    parameter = next(net.parameters(), torch.zeros(0))
    was_training = net.training
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TensorBoard's writer traces the network, which is deprecated
        images = torch.zeros(1, *input_shape, device=parameter.device)
        try:  # the writer would check the trace, which imports torch's compiler
            trace = torch.jit.trace(net.eval(), images, check_trace=False)  # type: ignore[no-untyped-call]
            logger.experiment.add_graph(trace, images)
        except Exception as error:  # noqa: BLE001 - control flow cannot be traced, and may raise anything
            log.info("TensorBoard has no graph of this network: %s", str(error).partition("\n")[0])
        finally:
            net.train(was_training)


def show_pr_curves(logger: TensorBoardLogger, test: Predictions, class_names: Sequence[str], *, step: int) -> None:
    """Precision and recall of each of up to 100 classes against the rest on the test set, in the PR Curves tab."""
    probabilities = test.logits.softmax(1)
    if len(class_names) > MAX_CURVES:
        log.info("TensorBoard has precision and recall of the first %d classes alone", MAX_CURVES)
    for index, name in enumerate(class_names[:MAX_CURVES]):
        logger.experiment.add_pr_curve(name, test.labels == index, probabilities[:, index], step)


def show_embedding(
    logger: TensorBoardLogger, test: Predictions, pictures: Pictures, class_names: Sequence[str], *, step: int
) -> None:
    """The logits of test images, with the images as sprites, in the Projector tab."""
    points = min(MAX_POINTS, max(1, MAX_NUMBERS // test.logits.shape[1]), len(test.labels))
    chosen = torch.linspace(0, len(test.labels) - 1, points).long()
    rows = ["\t".join(map(str, row)) for row in test.logits[chosen].tolist()]
    names = [class_names[label] for label in test.labels[chosen].tolist()]
    sheet = _sheet(_sprites([pictures[int(position)] for position in chosen]))
    # As add_embedding writes it, which takes four times as long.
    folder = logger.experiment.log_dir
    at = f"{step:05d}/{TAG}"
    config = projector_config(logger.experiment)
    shown = config.embeddings.add(
        tensor_name=f"{TAG}:{step:05d}", tensor_path=f"{at}/tensors.tsv", metadata_path=f"{at}/metadata.tsv"
    )
    shown.sprite.image_path = f"{at}/sprite.png"
    shown.sprite.single_image_dim.extend([SPRITE_SIDE, SPRITE_SIDE])
    files = {
        shown.tensor_path: "".join(f"{row}\n" for row in rows).encode(),
        shown.metadata_path: "".join(f"{name}\n" for name in names).encode(),
        shown.sprite.image_path: encode(sheet),
        "projector_config.pbtxt": str(config).encode(),
    }
    tf.io.gfile.makedirs(f"{folder}/{at}")  # a folder of TensorBoard's may be remote
    for name, contents in files.items():
        with tf.io.gfile.GFile(f"{folder}/{name}", "wb") as file:
            file.write(contents)


def show_hparams(logger: TensorBoardLogger, hparams: Mapping[str, Any], metrics: Mapping[str, Any]) -> None:
    """The run's hyperparameters and its final metrics, in the HParams tab."""
    final = {
        f"final/{part}_{name}": value
        for part in ("val", "test")
        for name, value in (metrics[part] or {}).items()
        if isinstance(value, float)
    }
    plain = {
        key: value if isinstance(value, int | float | bool | str) else str(value) for key, value in hparams.items()
    }
    logger.log_hyperparams(plain, final)


def _sprites(pictures: Sequence[Tensor]) -> Tensor:
    """Pictures uint8 (C, H, W) as small floats (N, 3 or 1, S, S) in 0..1, each in the middle of a black square."""
    if len({each.shape for each in pictures}) > 1:
        return torch.cat([_sprites([each]) for each in pictures])
    sides = pictures[0].shape[1:]
    height, width = (max(1, round(SPRITE_SIDE * side / max(sides))) for side in sides)
    small = nn.functional.interpolate(torch.stack([*pictures]).float() / 255, size=(height, width), mode="area")
    above, left = (SPRITE_SIDE - height) // 2, (SPRITE_SIDE - width) // 2
    squares = nn.functional.pad(small, (left, SPRITE_SIDE - width - left, above, SPRITE_SIDE - height - above))
    return squares if squares.shape[1] in {1, RGB} else squares[:, :1]


def _sheet(sprites: Tensor) -> NDArray[np.uint8]:
    """Sprites (N, 3 or 1, S, S) row by row in the smallest square sheet (M * S, M * S, 3) that holds them."""
    num, _, side, _ = sprites.shape
    per_side = math.ceil(math.sqrt(num))
    cells = np.zeros((per_side**2, side, side, RGB), np.uint8)
    cells[:num] = (255 * sprites.double()).permute(0, 2, 3, 1).numpy()
    return cells.reshape(per_side, per_side, side, side, RGB).swapaxes(1, 2).reshape(per_side * side, -1, RGB)
