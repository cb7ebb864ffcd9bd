"""Ray: one of our own on this machine, or a cluster that exists; quiet, and left as it was."""

import logging
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from clip_deepfake.system import available_cores

from deepfake_tools.errors import ServiceError, one_line

OBJECT_STORE_BYTES = 128 << 20
"""Blocks' numbers travel, and no images."""

LONGEST_TEMPORARY = 40
"""Characters: below it Ray makes sockets, whose whole paths may have 107."""

HANDLER, SCRIPTS = (Path(__file__).resolve().parents[3] / name for name in ("handler", "scripts"))


class ClusterError(ServiceError):
    """Ray does not start, or a cluster has not what was asked for."""

    exit_code: ClassVar[int] = 27
    meaning: ClassVar[str] = "Ray does not start, or has no cores or GPUs as asked for"
    kind = "cluster"
    is_general = True


@dataclass(frozen=True)
class ActorPool:
    """The actors of a run.

    Attributes:
        size: How many.
        cores: Of each.
        on_gpu: Whether each has a GPU.
    """

    size: int
    cores: int
    on_gpu: bool

    def __str__(self) -> str:
        gpu = ", a GPU each" if self.on_gpu else ""
        return f"{self.size} actors of {self.cores} cores{gpu}"


@contextmanager
def ray_running(address: str | None) -> Iterator[None]:
    """Keeps Ray up for the block: this machine's own, or a connection to a cluster.

    Args:
        address: Of the cluster; None starts Ray here.

    Raises:
        ClusterError: It cannot be reached, or does not start.
    """
    # Ray reads these when it is imported, and when it starts.
    os.environ.update(
        RAY_USAGE_STATS_ENABLED="0",
        RAY_DATA_DISABLE_PROGRESS_BARS="1",
        RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO="0",
    )
    import ray

    if ray.is_initialized():  # whoever calls this has one up
        yield
        return
    with _temporary(address) as folder, _quiet():
        try:
            _start(address, folder)
            logging.getLogger("ray.data").setLevel(logging.CRITICAL)
            yield
        finally:
            with suppress(Exception):
                ray.shutdown()


@contextmanager
def _quiet() -> Iterator[None]:
    """Lets only what this command itself says reach its standard error, and nothing its output.

    Ray writes there from C++, and hands on to standard output what its nodes have to say.
    """
    own = os.dup(2)
    own_file = os.fdopen(own, "w", buffering=1, errors="backslashreplace")
    with Path(os.devnull).open("w") as nowhere, own_file as stderr:
        os.dup2(nowhere.fileno(), 2)
        try:
            with redirect_stdout(nowhere), redirect_stderr(stderr):
                yield
        finally:
            os.dup2(own, 2)


@contextmanager
def _temporary(address: str | None) -> Iterator[str | None]:
    """The folder for Ray's sessions; None where the cluster has its own."""
    if address is not None:
        yield None
        return
    above = tempfile.gettempdir()
    folder = tempfile.mkdtemp("", "score-", above if len(above) < LONGEST_TEMPORARY else "/tmp")
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _start(address: str | None, folder: str | None) -> None:
    import ray

    options: dict[str, Any] = {
        "log_to_driver": False,
        "logging_level": logging.CRITICAL,
        "configure_logging": True,
    }
    if address is None:
        options |= {
            "num_cpus": available_cores(),
            "include_dashboard": False,
            "object_store_memory": OBJECT_STORE_BYTES,
            "_temp_dir": folder,
            # As urgent as the command itself: whoever wants it to be polite types nice before it.
            "_system_config": {"worker_niceness": 0},
        }
    else:
        modules = [str(HANDLER / "clip_deepfake"), str(SCRIPTS / "deepfake_tools")]
        options |= {"address": address, "runtime_env": {"py_modules": modules}}
    # It would end the command at once on a polite kill.
    before = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(**options)
    except Exception as error:  # Ray raises whatever it meets
        what = "Ray does not start here" if address is None else f"no Ray cluster at {address}"
        raise ClusterError(f"{what}: {one_line(error)}") from error
    finally:
        signal.signal(signal.SIGTERM, before)


def muster(gpus: int, cores: int | None) -> ActorPool:
    """Finds out how many actors there is room for.

    One on all cores of a node is faster than several on parts of them. Nodes of several sizes get
    actors of the smallest one's.

    Args:
        gpus: How many are to be used, one for each actor; 0 computes on processors.
        cores: Of each actor; None takes the smallest node's, or of each GPU its share.

    Raises:
        ClusterError: There is no room for any.
    """
    nodes = [node["Resources"] for node in _nodes() if node["Alive"]]
    if gpus:
        nodes = [node for node in nodes if node.get("GPU", 0) >= 1]
        there = int(sum(node["GPU"] for node in nodes))
        if there < gpus:
            raise ClusterError(f"--gpus {gpus}: Ray finds {there}; see nvidia-smi and ray status")
        share = cores or max(1, min(int(node.get("CPU", 0) // node["GPU"]) for node in nodes))
        return ActorPool(gpus, share, True)
    sizes = [int(node.get("CPU", 0)) for node in nodes if node.get("CPU", 0) >= 1]
    each = cores or min(sizes, default=1)
    actors = sum(size // each for size in sizes)
    if not actors:
        raise ClusterError(
            f"no node has {each} cores: they have {', '.join(map(str, sizes)) or 'none'}; see "
            "--cores and ray status"
        )
    return ActorPool(actors, each, False)


def lost_nodes(known: set[str]) -> list[str]:
    """Returns the addresses of the nodes that are dead and were not known to be; notes them."""
    lost = [node for node in _nodes() if not node["Alive"] and node["NodeID"] not in known]
    known.update(node["NodeID"] for node in lost)
    return [str(node["NodeManagerAddress"]) for node in lost]


def _nodes() -> list[dict[str, Any]]:
    import ray

    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return nodes
