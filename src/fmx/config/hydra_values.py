"""`${hydra:…}` before a run has begun, which is when Hydra itself resolves it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict, read_write

__all__ = ["RUN_DIRECTORY", "hydra_values"]

RUN_DIRECTORY = "<run directory>"  # what stands for a folder that there is not yet
MARK = "${hydra:"


@contextmanager
def hydra_values(config: DictConfig, plain: Any = None) -> Iterator[None]:
    """In the block, `${hydra:…}` has the values of a configuration's own hydra node, if it has one.

    The run directory, where there is none yet, is RUN_DIRECTORY, as `${run_dir:}` is then too. plain: the configuration
    as OmegaConf.to_container gives it unresolved, where the caller has it.
    """
    if "hydra" not in config or MARK not in str(plain or OmegaConf.to_container(config, resolve=False)):
        yield
        return
    from hydra.core.hydra_config import HydraConfig

    holder, known = HydraConfig.instance(), config.copy()
    with read_write(known.hydra), open_dict(known.hydra):
        if OmegaConf.is_missing(known.hydra.runtime, "output_dir"):
            known.hydra.runtime.output_dir = RUN_DIRECTORY
    before = holder.cfg
    holder.cfg = known  # type: ignore[assignment]  # Hydra itself puts a DictConfig there
    try:
        yield
    finally:
        holder.cfg = before
