"""Memory: whether a failure is for want of it, and a limit on what a process takes."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# PyTorch on CUDA and on a CPU, C++ under OpenVINO and dlib.
SIGNS = ("out of memory", "can't allocate memory", "not enough memory", "bad_alloc")
REMEDY = (
    "the memory was not enough: end other programs, or take a machine, or a GPU, with more; what "
    "an earlier run has kept is still there"
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a failure is one of memory, the machine's or a GPU's."""
    if isinstance(error, MemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(sign in text for sign in SIGNS)


@contextmanager
def memory_limit(more: int) -> Iterator[None]:
    """Lets this process take no more memory than it has now and some, until the block ends.

    Args:
        more: Bytes of addresses. What takes more fails with a MemoryError, or torch's own error.
    """
    # macOS knows no such limit.
    if sys.platform != "linux":
        yield
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    wanted = pages * resource.getpagesize() + more
    if soft != resource.RLIM_INFINITY:
        wanted = min(wanted, soft)
    resource.setrlimit(resource.RLIMIT_AS, (wanted, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
