"""This machine: what a reader of its figures has to know of it, and what processes use of it."""

import os
import platform
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

import psutil
from clip_deepfake.system import BFLOAT16_PRODUCTS

CPU_INFO = Path("/proc/cpuinfo")

# What matrix products run on, in the words of Linux.
FLAGS = (
    "avx2",
    "avx512f",
    "avx512_bf16",
    "avx512_vnni",
    "avx_vnni",
    "amx_tile",
    "amx_int8",
    "amx_bf16",
    "asimddp",
    "i8mm",
    "bf16",
)

LIBRARIES = (
    "litserve",
    "nncf",
    "numpy",
    "opencv-python-headless",
    "openvino",
    "pillow",
    "torch",
    "torchserve",
    "torchvision",
    "transformers",
)

EVERY_S = 1.0

SETTLED_S = 20.0
"""After which a server has met every size of batch, and its memory should stay as it is."""

LEAST_SETTLED = 10
"""Readings after that; with fewer nothing is said of growth."""


@dataclass(frozen=True)
class Machine:
    """What ran the benchmark.

    Attributes:
        cpu: Its name.
        cores: Logical ones that this process may use.
        flags: Instructions that matter here.
        memory_gb: In 10**9 bytes.
        gpus: Their names.
        system: Operating system and Python.
        libraries: Versions of those installed, by name.
    """

    cpu: str
    cores: int
    flags: tuple[str, ...]
    memory_gb: float
    gpus: tuple[str, ...]
    system: str
    libraries: dict[str, str]

    @property
    def has_bfloat16(self) -> bool:
        """Whether the processor multiplies matrices of bfloat16."""
        return not BFLOAT16_PRODUCTS.isdisjoint(self.flags)


def describe_machine() -> Machine:
    """Returns the description of this machine."""
    text = CPU_INFO.read_text(encoding="utf-8") if CPU_INFO.exists() else ""
    name = re.search(r"^model name\s*: (.+)$", text, re.MULTILINE)
    present = set(
        " ".join(re.findall(r"^(?:flags|Features)\s*: (.+)$", text, re.MULTILINE)).split()
    )
    return Machine(
        cpu=name[1] if name else platform.processor() or platform.machine(),
        cores=len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count() or 1,
        flags=tuple(flag for flag in FLAGS if flag in present),
        memory_gb=round(psutil.virtual_memory().total / 1e9, 1),
        gpus=gpu_names(),
        system=f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
        libraries={name: found for name in LIBRARIES if (found := _version(name))},
    )


def gpu_names() -> tuple[str, ...]:
    """Returns the names of the CUDA devices, by the tool that TorchServe counts them with too."""
    if shutil.which("nvidia-smi") is None:
        return ()
    query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    asked = subprocess.run(query, capture_output=True, text=True, check=False)
    return tuple(asked.stdout.splitlines()) if asked.returncode == 0 else ()


def _version(library: str) -> str | None:
    try:
        return version(library)
    except PackageNotFoundError:
        return None


class ProcessTree:
    """A process and all that it has started, by now or later.

    Args:
        pid: The process.
    """

    def __init__(self, pid: int) -> None:
        self._root = psutil.Process(pid)

    def cpu_s(self) -> float:
        """Returns the processor time of all that still run, and of the children that they had."""
        total = 0.0
        for process in self._processes():
            try:
                times = process.cpu_times()
            except psutil.NoSuchProcess:
                continue
            total += times.user + times.system + times.children_user + times.children_system
        return total

    def largest_mb(self) -> float:
        """Returns the resident memory of the largest one, in 10**6 bytes."""
        return max(memory_mb(process.pid) for process in self._processes())

    def _processes(self) -> Iterator[psutil.Process]:
        yield self._root
        yield from self._root.children(recursive=True)


def busy_s() -> float:
    """Returns the processor time of everything on the machine, and what others took of it."""
    times = psutil.cpu_times()
    idle = times.idle + getattr(times, "iowait", 0.0)
    # Linux counts a guest's time in its user's too.
    guests = getattr(times, "guest", 0.0) + getattr(times, "guest_nice", 0.0)
    return float(sum(times) - idle - guests)


def memory_mb(pid: int) -> float:
    """Returns the resident memory of a process in 10**6 bytes, 0 once it is gone."""
    try:
        return float(psutil.Process(pid).memory_info().rss / 1e6)
    except psutil.NoSuchProcess:
        return 0.0


class MemorySample(NamedTuple):
    """One reading.

    Attributes:
        at: As time.monotonic().
        memory_mb: In 10**6 bytes.
    """

    at: float
    memory_mb: float


class MemoryTrace:
    """Reads a memory at the beginning, once a second and at the end of a block.

    Args:
        read: Returns it, in 10**6 bytes.

    Attributes:
        samples: In the order of time.
    """

    def __init__(self, read: Callable[[], float]) -> None:
        self._read = read
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.samples: list[MemorySample] = []

    def __enter__(self) -> Self:
        self._take()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended.set()
        self._thread.join()
        self._take()

    @property
    def largest_mb(self) -> float:
        """The largest reading."""
        return max(sample.memory_mb for sample in self.samples)

    @property
    def growth(self) -> float | None:
        """See `settled_growth`."""
        return settled_growth(self.samples)

    def _watch(self) -> None:
        while not self._ended.wait(EVERY_S):
            self._take()

    def _take(self) -> None:
        self.samples.append(MemorySample(time.monotonic(), self._read()))


def settled_growth(samples: Sequence[MemorySample]) -> float | None:
    """Returns by what share the largest reading after the first 20 s exceeds the first of them.

    Args:
        samples: In the order of time.

    Returns:
        A share, 0 when it has only fallen; None when there are too few readings to say.
    """
    settled = [s.memory_mb for s in samples if s.at - samples[0].at >= SETTLED_S]
    return max(settled) / settled[0] - 1 if len(settled) >= LEAST_SETTLED else None
