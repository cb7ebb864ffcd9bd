"""This machine -> what a reader of its figures has to know of it."""

import os
import platform
import re
import shutil
import subprocess
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

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
