"""Parameters that are frozen at first and trained from an epoch on."""

import logging
from collections.abc import Iterable, Sequence

from pytorch_lightning import Callback, LightningModule, Trainer
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from fmx.errors import ConfigError
from fmx.models.adapted_net import AdaptedNet
from fmx.models.layers import layers
from fmx.training.classifier import BATCH_NORMS, Classifier
from fmx.training.parameter_groups import find_parameters, listed, named

__all__ = ["Unfreeze"]

log = logging.getLogger(__name__)
KEY = "callbacks.unfreeze"


class Unfreeze(Callback):
    """Freezes parameters until an epoch, and trains them from then on at a share of the rate.

    The optimizer holds them from the start, so that a schedule covers them and a resumed run has the same groups.
    Batch norm whose weights are frozen keeps its stored mean and variance, and trains with them; dropout stays active.
    Several of these callbacks thaw several parts.

    epoch: the first in which they are trained, counted from 1; None for never.
    params: patterns for names of parameters or layers (`parameter_groups.find_parameters`); None for all but the last
    layer, also where the model froze them.
    lr_factor: of the rate that they would have otherwise, which `schedule`, `optim.groups` and `layer_decay` give.
    """

    def __init__(self, *, epoch: int | None, params: str | Sequence[str] | None, lr_factor: float) -> None:
        self.epoch = epoch
        self.params = params
        self.lr_factor = lr_factor
        self._parameters: list[nn.Parameter] = []
        self._batch_norms: list[nn.Module] = []
        self._is_frozen = False

    def prepare(self, parts: nn.Module, factors: dict[str, float]) -> list[str]:
        """Choose the parameters among those of a Classifier, let its optimizer have them, and return their names.

        factors: of the rates, by name; those of the chosen ones are added. ConfigError: there are none, no others, or
        another callback has them.
        """
        net = parts.get_submodule("net")
        if self.params is None:
            *before, _ = layers(net).values()
            names = [name for layer in before for name in layer]
        else:
            names = find_parameters(parts, self.params, f"{KEY}.params")
        if not names or len(names) == len(named(parts)):
            which = "no parameter" if not names else "all parameters"
            raise ConfigError(
                f"{KEY}.params={self.params or 'null'} would freeze {which} of this network: some must be frozen, and "
                "others trained from the start"
            )
        if twice := [name for name in names if name in factors]:
            raise ConfigError(f"{KEY}.params: another callback freezes {listed(twice)} too")
        factors |= dict.fromkeys(names, self.lr_factor)
        parameters = named(parts)
        self._parameters = [parameters[name] for name in names]
        for parameter in self._parameters:
            parameter.requires_grad = True
        if isinstance(net, AdaptedNet):
            net.freeze = False  # else its batch norm would stay in eval mode for good
        self._batch_norms = list(_all_within(net.modules(), self._parameters))
        return names

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Choose the parameters before the optimizer is made."""
        if stage == "fit":
            assert isinstance(pl_module, Classifier)
            names = self.prepare(pl_module, pl_module.rate_factors)
            if trainer.is_global_zero:
                norms = ", batch norm with its stored mean and variance" if self._batch_norms else ""
                until = f" before epoch {self.epoch}, then trained at {self.lr_factor:g} of the rate"
                log.info("unfreeze: %s frozen%s%s", listed(names), "" if self.epoch is None else until, norms)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Freeze them; a resumed run has not read yet which epoch it is in."""
        self._is_frozen = True
        for parameter in self._parameters:
            parameter.requires_grad = False
        for module in self._batch_norms:
            module.eval()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Train them where a resumed run did."""
        model = trainer.strategy.model
        if isinstance(model, DistributedDataParallel) and not model.find_unused_parameters:
            raise ConfigError(
                f"{KEY}: several processes exchange the gradients of all parameters, unless you type "
                "trainer.strategy=ddp_find_unused_parameters_true"
            )
        self._thaw_if_due(trainer)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Train them from this epoch on, if it is theirs."""
        if self._thaw_if_due(trainer) and trainer.is_global_zero:
            log.info("unfreeze: from epoch %d on, all of these are trained", trainer.current_epoch + 1)

    def _thaw_if_due(self, trainer: Trainer) -> bool:
        if not self._is_frozen or self.epoch is None or trainer.current_epoch + 1 < self.epoch:
            return False
        self._is_frozen = False
        for parameter in self._parameters:
            parameter.requires_grad = True
        for module in self._batch_norms:
            module.train()
        return True


def _all_within(modules: Iterable[nn.Module], parameters: Sequence[nn.Parameter]) -> Iterable[nn.Module]:
    """The batch norms whose weights are all among the parameters."""
    chosen = {id(parameter) for parameter in parameters}
    for module in modules:
        own = [*module.parameters(recurse=False)]
        if isinstance(module, BATCH_NORMS) and own and all(id(each) in chosen for each in own):
            yield module
