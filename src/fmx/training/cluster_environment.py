"""The Lightning environment of a run's processes; Lightning's own choice would trust stale environment variables."""

import os
from collections.abc import Mapping
from typing import Any

from lightning_fabric.plugins.environments import (  # type: ignore[attr-defined]
    ClusterEnvironment,
    LightningEnvironment,
    SLURMEnvironment,
    TorchElasticEnvironment,
)
from lightning_fabric.plugins.environments.lightning import find_free_network_port
from pytorch_lightning.utilities import rank_zero_only

from fmx.process.distributed import is_first_process, port_of_restart, started_by, torchrun_processes

__all__ = ["cluster_environment"]


def cluster_environment(trainer: Mapping[str, Any]) -> ClusterEnvironment:
    """The environment for the Trainer of a `trainer` node; sets this process's rank."""
    # Lightning reads it from the environment when it is imported, and sets it anew only for distributed strategies.
    rank_zero_only.rank = int(not is_first_process(trainer))  # type: ignore[attr-defined]
    starter = started_by(trainer)
    if starter == "torchrun":
        return Torchrun()
    if starter == "srun":
        return SLURMEnvironment(auto_requeue=False)
    if not torchrun_processes():  # or torch would wait for the store of an agent that has ended
        os.environ.pop("TORCHELASTIC_USE_AGENT_STORE", None)
    return OwnProcesses(
        local_rank=int(os.environ["LOCAL_RANK"]) if starter == "fmx" else 0,
        node_rank=int(os.environ["NODE_RANK"]) if starter in {"fmx", "hand"} else 0,
        joins=starter in {"fmx", "hand"},
    )


class Torchrun(TorchElasticEnvironment):
    """Lightning's environment, in which the processes that torchrun has restarted meet at a port of their own."""

    @property
    def main_port(self) -> int:
        """The port of the first process."""
        if self._port is None:
            self._port = port_of_restart() or super().main_port
            if self._port != super().main_port:
                os.environ["TORCHELASTIC_USE_AGENT_STORE"] = "False"  # the first process serves it, not the agent
        return self._port

    _port: int | None = None


class OwnProcesses(LightningEnvironment):
    """Lightning starts the other processes of this machine, unless this is one of them.

    joins: whether MASTER_ADDR and MASTER_PORT are of this run, not stale.
    """

    def __init__(self, *, local_rank: int, node_rank: int, joins: bool) -> None:
        super().__init__()
        self._local_rank = local_rank
        self._node_rank = node_rank
        self._joins = joins

    @property
    def creates_processes_externally(self) -> bool:
        """Whether the other processes are started already."""
        return self._local_rank > 0

    @property
    def main_address(self) -> str:
        """The address of the first process."""
        return super().main_address if self._joins else "127.0.0.1"

    @property
    def main_port(self) -> int:
        """The port of the first process."""
        if not self._joins and self._main_port == -1:
            self._main_port = find_free_network_port()
        return super().main_port

    def local_rank(self) -> int:
        """The rank of this process on its machine."""
        return self._local_rank

    def node_rank(self) -> int:
        """The rank of this machine."""
        return self._node_rank
