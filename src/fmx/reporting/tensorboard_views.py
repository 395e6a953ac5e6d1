"""What TensorBoard shows besides scalars and figures: text, graph, precision and recall, an embedding, hparams."""

import logging
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from pytorch_lightning.loggers import TensorBoardLogger
from torch import Tensor, nn

from fmx.data.module import Pictures
from fmx.inference.scoring import Predictions

__all__ = ["show_config", "show_embedding", "show_graph", "show_hparams", "show_pr_curves"]

log = logging.getLogger(__name__)

MAX_POINTS = 1000  # of the embedding; its sprite holds one picture each
MAX_NUMBERS = 10**6  # of the embedding, which is written as text
MAX_CURVES = 100  # of precision and recall; each costs a pass over the test set
SPRITE_SIDE = 28  # pixels


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
    sprites = torch.stack([_sprite(pictures[int(position)]) for position in chosen])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logger.experiment.add_embedding(
            test.logits[chosen],
            metadata=[class_names[label] for label in test.labels[chosen].tolist()],
            label_img=sprites,
            global_step=step,
            tag="test",
        )


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


def _sprite(picture: Tensor) -> Tensor:
    """A picture uint8 (C, H, W) as a small float (3 or 1, S, S) in 0..1, in the middle of a black square."""
    longer = max(picture.shape[1:])
    height, width = (max(1, round(SPRITE_SIDE * side / longer)) for side in picture.shape[1:])
    small = nn.functional.interpolate(picture[None].float() / 255, size=(height, width), mode="area")[0]
    above, left = (SPRITE_SIDE - height) // 2, (SPRITE_SIDE - width) // 2
    square = nn.functional.pad(small, (left, SPRITE_SIDE - width - left, above, SPRITE_SIDE - height - above))
    return square if len(square) in {1, 3} else square[:1]
