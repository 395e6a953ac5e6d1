"""Objects made from a run directory: the classifier with a checkpoint's weights, and the data set."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from inspect import signature
from pathlib import Path
from typing import Any

from hydra.errors import InstantiationException
from omegaconf import DictConfig, OmegaConf
from torch import Tensor
from torch.nn.parameter import is_lazy

from fmx.config.quoting import escape_interpolations
from fmx.config.rules import is_own
from fmx.config.targets import locate
from fmx.config.trust import is_torchvision_builder
from fmx.data.module import ImageDataModule
from fmx.errors import ConfigError, DataError
from fmx.process.cores import num_cores
from fmx.process.memory_bound import SPARE_BYTES, at_most_bytes
from fmx.runs.checkpoint_files import apply_weights, check_shapes, load_checkpoint
from fmx.runs.run_dir import open_run
from fmx.runs.trusted_config import PARTS
from fmx.training.build import build_classifier, build_data, is_beyond_meta, meta_network
from fmx.training.classifier import Classifier

__all__ = ["check_fits", "restore_classifier", "restore_data"]

COPIES = 4  # of the weights: allocated, initialised, in another memory format, and from the checkpoint
NO_AUGMENTATION = {"_target_": "torch.nn.Identity"}


def restore_classifier(config: DictConfig, checkpoint: Path) -> Classifier:
    """The run's classifier in eval mode with a checkpoint's weights, on the CPU.

    DataError where its parts cannot be made, or the weights do not fit. The shapes are compared before memory is
    allocated for the network, and the memory for all parts is bounded by the size of the checkpoint.
    """
    config = config.copy()
    net: Any = OmegaConf.to_container(config.model.net, resolve=True)
    config.model.net = OmegaConf.create(escape_interpolations(_without_weights(net)))
    state = load_checkpoint(checkpoint)["state_dict"]
    with naming_version(config):
        return _build_and_load(config, state, checkpoint)


def _build_and_load(config: DictConfig, state: Mapping[str, Tensor], checkpoint: Path) -> Classifier:
    weights = sum(tensor.untyped_storage().nbytes() for tensor in state.values())
    _import_parts(config)
    with at_most_bytes(SPARE_BYTES + COPIES * weights, f"its parts ({checkpoint})"):
        check_shapes(_shapes(config), state, checkpoint)
        with _construction_errors("its parts"):
            classifier = build_classifier(config)
    apply_weights(classifier, state, checkpoint)
    return classifier.eval()


def _without_weights(node: Any) -> Any:
    """A copy of a plain node whose networks load no weights of their own: the checkpoint has them.

    A download would be wasted and unexpected. torchvision also accepts weights by its older argument `pretrained`, and
    by position; so does timm.
    """
    if isinstance(node, list):
        return [_without_weights(child) for child in node]
    if not isinstance(node, Mapping):
        return node
    copy = {key: _without_weights(child) for key, child in node.items()}
    copy |= {key: None for key in ("weights", "weights_backbone") if key in copy and _names_a_file(copy, key)}
    if (target := str(copy.get("_target_"))).startswith("timm."):
        copy |= {key: no for key, no in {"pretrained": False, "checkpoint_path": ""}.items() if key in copy}
        if isinstance(given := copy.get("_args_"), list):  # create_model takes the name first
            place = 1 if target.endswith(".create_model") else 0
            copy["_args_"] = [False if number == place else each for number, each in enumerate(given)]
    if is_torchvision_builder(copy.get("_target_")):
        for key in ("_args_", "pretrained", "pretrained_backbone"):
            copy.pop(key, None)
    return copy


def _names_a_file(node: Mapping[str, Any], key: str) -> bool:
    """Whether a key of a network says where its weights are, which a network of the user's own may call a list, say."""
    if not is_own(node):
        return True
    try:
        parameter = signature(locate(str(node["_target_"]), key)).parameters[key]
    except (ConfigError, KeyError, ValueError):
        return False
    return isinstance(node[key], str) and parameter.default is None


def check_fits(config: DictConfig, checkpoint: Path) -> None:
    """DataError where the parts of a run need more memory than its checkpoint accounts for, or other weights."""
    restore_classifier(config, checkpoint)


def _import_parts(config: DictConfig) -> None:
    """Import the modules of the parts first, since the memory bound has no room for imports."""
    from fmx.config.targets import check_keys

    with _construction_errors("its parts"):
        check_keys({key: OmegaConf.to_container(config[key], resolve=True) for key in PARTS})


def _shapes(config: DictConfig) -> dict[str, Tensor]:
    """The weights of the run's network by their names in a checkpoint, on the meta device."""
    try:
        with _construction_errors("its parts"):
            net = meta_network(OmegaConf.to_container(config.model.net, resolve=True))  # type: ignore[arg-type]
    except DataError as error:
        if is_beyond_meta(error):  # it reads values while it is built; the meta device has none
            return {}
        raise
    weights = {f"net.{name}": tensor for name, tensor in net.state_dict().items()}
    if lazy := next((name for name, tensor in weights.items() if is_lazy(tensor)), None):
        raise DataError(f"its parts: {lazy} has no shape before it has seen an image, so no weights can be put there")
    return weights


@contextmanager
def _construction_errors(what: str, config: DictConfig | None = None) -> Iterator[None]:
    """Turn a constructor's error about its values into a DataError.

    config: of the run; if another version of fmx wrote it, the error names that version.
    """
    version = "" if config is None else _other_version(config)
    try:
        yield
    except InstantiationException as error:
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        raise DataError(
            f"{what}: the run's configuration cannot be made: {str(cause).partition(chr(10))[0]}{version}"
        ) from error
    except ConfigError as error:
        raise DataError(f"{error}{version}") from error


@contextmanager
def naming_version(config: DictConfig) -> Iterator[None]:
    """Add the version of fmx that wrote a run to a DataError of the block, if it is another one."""
    try:
        yield
    except DataError as error:
        version = _other_version(config)
        if not version or version in str(error):
            raise
        raise DataError(f"{error}{version}") from error


def _other_version(config: DictConfig) -> str:
    try:
        return open_run(str(config.run_dir), finished=False).other_version
    except DataError:
        return ""


def restore_data(config: DictConfig) -> ImageDataModule:
    """The run's data set with its recorded split.

    It is not augmented: an augmentation could take any memory.
    """
    config = config.copy()
    config.augment = OmegaConf.create(NO_AUGMENTATION)
    config.data.num_workers = min(config.data.num_workers, num_cores())
    with _construction_errors("data", config):
        return build_data(config)
