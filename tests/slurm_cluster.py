"""A real SLURM of one node on the loopback address, for as long as a test needs one; nothing of it stays.

python tests/slurm_cluster.py COMMAND…    run a command with SLURM_CONF set, `bash` for one
"""

import getpass
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

PROGRAMS = ["munged", "slurmctld", "slurmd"]
CPUS = 4  # as SLURM counts them, whatever the machine has: a test's jobs wait for one another otherwise
WAIT_S = 30.0

CONFIGURATION = """\
ClusterName=fmx
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CryptoType=crypto/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=batch_sched_delay=0,sched_interval=2,sched_min_interval=0,requeue_delay=0
KillWait=30
ReturnToService=2
SlurmdParameters=config_overrides
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=8000 State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=60 State=UP
"""


def missing() -> str | None:
    """The first program that a cluster needs and this machine lacks."""
    return next((name for name in PROGRAMS if program(name) is None), None)


def program(name: str) -> str | None:
    return shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")


@contextmanager
def cluster() -> Iterator[dict[str, str]]:
    """Start one; yields the environment in which SLURM's commands find it."""
    with tempfile.TemporaryDirectory(prefix="slurm", dir="/tmp") as name, ExitStack() as running:
        folder = Path(name)
        folder.chmod(0o755)  # munged asks for it
        key = folder / "munge.key"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o400)
        for each in ("state", "spool"):
            (folder / each).mkdir()
        configuration = folder / "slurm.conf"
        configuration.write_text(
            CONFIGURATION.format(
                host=socket.gethostname().partition(".")[0],
                ports=free_ports(2),
                user=getpass.getuser(),
                folder=folder,
                cpus=CPUS,
            )
        )
        env = {"SLURM_CONF": str(configuration)}
        munge = [f"--key-file={key}", *(f"--{kind}-file={folder}/munge.{kind}" for kind in ("pid", "log", "seed"))]
        running.enter_context(daemon(folder, "munged", "--foreground", f"--socket={folder}/munge.socket", *munge))
        wait_for((folder / "munge.socket").exists, "munged", folder)
        running.enter_context(daemon(folder, "slurmctld", "-D", "-f", str(configuration)))
        running.enter_context(daemon(folder, "slurmd", "-D", "-f", str(configuration)))
        wait_for(lambda: "idle" in asked("sinfo", "-h", "-o", "%t", env=env), "the node", folder)
        try:
            yield env
        finally:
            asked("scancel", "--user", getpass.getuser(), env=env)
            asked("scancel", "--user", getpass.getuser(), "--signal=KILL", env=env)
            wait_for(lambda: not asked("squeue", "-h", env=env).strip(), "the end of all jobs", folder)


@contextmanager
def daemon(folder: Path, name: str, *arguments: str) -> Iterator[None]:
    path = program(name)
    assert path is not None, f"{name} is not installed"
    with (folder / f"{name}.out").open("w") as output:
        process = subprocess.Popen(
            [path, *arguments], stdout=output, stderr=output, stdin=subprocess.DEVNULL, start_new_session=True
        )
    try:
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def asked(*command: str, env: dict[str, str]) -> str:
    finished = subprocess.run(command, env=os.environ | env, capture_output=True, text=True, check=False, timeout=60)
    return finished.stdout


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def wait_for(condition, what: str, folder: Path) -> None:
    end = time.monotonic() + WAIT_S
    while not condition():
        if time.monotonic() > end:
            logs = "\n".join(f"== {path.name}\n{path.read_text()[-2000:]}" for path in sorted(folder.glob("*.[lo]*")))
            raise TimeoutError(f"waited {WAIT_S:.0f} s for {what}\n{logs}")
        time.sleep(0.1)


if __name__ == "__main__":
    with cluster() as environment:
        sys.exit(subprocess.run(sys.argv[1:], env=os.environ | environment, check=False).returncode)
