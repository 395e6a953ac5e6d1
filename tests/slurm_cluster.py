"""A real SLURM for as long as a test needs one: of one node on the loopback address, or of two; nothing of it stays.

Each of two nodes has a network and a host name of its own (namespaces of Linux), so they need root and iproute2.

python tests/slurm_cluster.py COMMAND…              run a command with SLURM_CONF set, `bash` for one
python tests/slurm_cluster.py --nodes COMMAND…      likewise, with two nodes
"""

import getpass
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

PROGRAMS = ["munged", "slurmctld", "slurmd"]
PROGRAMS_OF_NODES = [*PROGRAMS, "ip", "nsenter", "unshare"]
CPUS = 4  # as SLURM counts them, whatever the machine has: a test's jobs wait for one another otherwise
WAIT_S = 30.0

CONFIGURATION = """\
ClusterName=fmx
SlurmctldHost={controller}
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CryptoType=crypto/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
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
{nodes}
PartitionName=main Nodes=ALL LLN=YES Default=YES MaxTime=60 State=UP
"""


def missing() -> str | None:
    """The first program that a cluster needs and this machine lacks."""
    return next((name for name in PROGRAMS if program(name) is None), None)


def program(name: str) -> str | None:
    return shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")


def missing_for_nodes() -> str | None:
    """Why there cannot be a cluster of two nodes here; None where there can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "only root on Linux makes network namespaces"
    if absent := next((name for name in PROGRAMS_OF_NODES if program(name) is None), None):
        return f"{absent} is not installed"
    try:
        with network(1):
            return None
    except subprocess.CalledProcessError as error:
        return f"no network namespaces here: {error.stderr.strip()}"


@dataclass
class Node:
    """A machine of the cluster. space: its network namespace; None where it is this machine itself."""

    name: str
    address: str
    space: str | None = None

    def pids(self) -> list[int]:
        return [int(pid) for pid in ip("netns", "pids", str(self.space)).split()]

    def fail(self) -> None:
        """As when the power goes: no process of the node goes on or says a word."""
        for pid in self.pids():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@dataclass
class Cluster:
    """env: in which SLURM's commands find the cluster. folder: of its files."""

    env: dict[str, str]
    nodes: list[Node]
    folder: Path


@contextmanager
def cluster() -> Iterator[dict[str, str]]:
    """Start one of a single node; yields the environment in which SLURM's commands find it."""
    host = socket.gethostname().partition(".")[0]
    with started(f"{host}(127.0.0.1)", [Node(host, "127.0.0.1")], CPUS) as running:
        yield running.env


@contextmanager
def cluster_of_two() -> Iterator[Cluster]:
    """Start one of two nodes, each with half of the processors."""
    host = socket.gethostname().partition(".")[0]
    with network(2) as (address, nodes), started(f"{host}({address})", nodes, CPUS // 2) as running:
        yield running


@contextmanager
def network(count: int) -> Iterator[tuple[str, list[Node]]]:
    """A bridge and nodes that are connected to it; yields this machine's address there, and the nodes."""
    remove_stale()
    mark = f"fmx{os.getpid()}"
    net = f"10.{200 + os.getpid() // 256 % 50}.{os.getpid() % 256}"  # of no other process that tests here
    nodes = [Node(f"{mark}n{number}", f"{net}.{number}", f"{mark}n{number}") for number in range(1, count + 1)]
    with ExitStack() as made:
        ip("link", "add", mark, "type", "bridge")
        made.callback(ip, "link", "delete", mark)
        ip("address", "add", f"{net}.254/24", "dev", mark)
        ip("link", "set", mark, "up")
        for number, node in enumerate(nodes, start=1):
            ip("netns", "add", node.name)
            made.callback(ip, "netns", "delete", node.name)
            made.callback(node.fail)
            cable = f"{mark}v{number}"
            ip("link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", node.name)
            made.callback(delete_link, cable)
            ip("link", "set", cable, "master", mark, "up")
            ip("-n", node.name, "address", "add", f"{node.address}/24", "dev", "eth0")
            ip("-n", node.name, "link", "set", "eth0", "up")
            ip("-n", node.name, "link", "set", "lo", "up")
        yield f"{net}.254", nodes


def remove_stale() -> None:
    """What a process that was killed could not remove itself: the names begin with its number."""
    for name in {line.split()[0] for line in ip("netns", "list").splitlines()}:
        if (owner := re.fullmatch(r"fmx(\d+)n\d+", name)) and not Path("/proc", owner[1]).exists():
            Node(name, "", name).fail()
            ip("netns", "delete", name)
    for name in re.findall(r"^\d+: (fmx\d+)(?=:)", ip("link", "show", "type", "bridge"), re.MULTILINE):
        if not Path("/proc", name.removeprefix("fmx")).exists():
            delete_link(name)


def delete_link(name: str) -> None:
    """Its other end's namespace may have taken it along."""
    with suppress(subprocess.CalledProcessError):
        ip("link", "delete", name)


def ip(*arguments: str) -> str:
    path = program("ip")
    assert path is not None, "iproute2 is not installed"
    return subprocess.run([path, *arguments], capture_output=True, text=True, check=True, timeout=30).stdout


@contextmanager
def started(controller: str, nodes: list[Node], cpus: int) -> Iterator[Cluster]:
    """Start the daemons of a cluster, and stop its jobs and them in the end."""
    with tempfile.TemporaryDirectory(prefix="slurm", dir="/tmp") as name, ExitStack() as running:
        folder = Path(name)
        folder.chmod(0o755)  # munged asks for it
        key = folder / "munge.key"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o400)
        (folder / "state").mkdir()
        for node in nodes:
            (folder / f"spool-{node.name}").mkdir()
        configuration = folder / "slurm.conf"
        configuration.write_text(
            CONFIGURATION.format(
                controller=controller,
                ports=free_ports(2),
                user=getpass.getuser(),
                folder=folder,
                nodes="\n".join(
                    f"NodeName={node.name} NodeAddr={node.address} CPUs={cpus} RealMemory=8000 State=UNKNOWN"
                    for node in nodes
                ),
            )
        )
        env = {"SLURM_CONF": str(configuration)}
        munge = [f"--key-file={key}", *(f"--{kind}-file={folder}/munge.{kind}" for kind in ("pid", "log", "seed"))]
        running.enter_context(daemon(folder, "munged", "--foreground", f"--socket={folder}/munge.socket", *munge))
        wait_for((folder / "munge.socket").exists, "munged", folder)
        running.enter_context(daemon(folder, "slurmctld", "-D", "-f", str(configuration)))
        own = f"{controller.partition('(')[2].rstrip(')')} {socket.gethostname()}"
        lines = ["127.0.0.1 localhost", own, *(f"{node.address} {node.name}" for node in nodes)]
        (folder / "hosts").write_text("\n".join(lines) + "\n")
        for node in nodes:
            running.enter_context(daemon(folder, "slurmd", "-D", "-f", str(configuration), node=node))
        wait_for(lambda: asked("sinfo", "-hN", "-o", "%t", env=env).split() == ["idle"] * len(nodes), "nodes", folder)
        try:
            yield Cluster(env, nodes, folder)
        finally:
            asked("scancel", "--user", getpass.getuser(), env=env)
            asked("scancel", "--user", getpass.getuser(), "--signal=KILL", env=env)
            wait_for(lambda: not asked("squeue", "-h", env=env).strip(), "the end of all jobs", folder)


@contextmanager
def daemon(folder: Path, name: str, *arguments: str, node: Node | None = None) -> Iterator[None]:
    path = program(name)
    assert path is not None, f"{name} is not installed"
    there = [] if node is None or node.space is None else on(node, folder)
    with (folder / f"{name}{node.name if node else ''}.out").open("w") as output:
        process = subprocess.Popen(
            [*with_this_process(), *there, path, *arguments],
            stdout=output,
            stderr=output,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
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


def with_this_process() -> list[str]:
    """What goes before a daemon that is to end even where this process is killed."""
    setpriv = program("setpriv")
    return [setpriv, "--pdeathsig", "TERM"] if setpriv else []


def on(node: Node, folder: Path) -> list[str]:
    """What goes before a command that runs on a node; it stays the process that was started."""
    enter = [str(program("nsenter")), f"--net=/run/netns/{node.space}", str(program("unshare")), "--uts", "--mount"]
    return [
        *enter,
        "sh",
        "-ec",
        'mount --bind "$0/hosts" /etc/hosts; hostname "$1"; shift; exec "$@"',
        str(folder),
        node.name,
    ]


def asked(*command: str, env: dict[str, str]) -> str:
    finished = subprocess.run(command, env=os.environ | env, capture_output=True, text=True, check=False, timeout=60)
    return finished.stdout


def start_requeued(name: str, *, env: dict[str, str]) -> None:
    """Start a requeued job now, which SLURM would do in two minutes."""
    time.sleep(2)  # a node refuses a job in the second in which it ended: "Job credential revoked"
    asked("scontrol", "update", f"JobId={name}", "StartTime=now", env=env)


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
    with ExitStack() as stack:
        if sys.argv[1] == "--nodes":
            environment = stack.enter_context(cluster_of_two()).env
            del sys.argv[1]
        else:
            environment = stack.enter_context(cluster())
        code = subprocess.run(sys.argv[1:], env=os.environ | environment, check=False).returncode
    sys.exit(code)
