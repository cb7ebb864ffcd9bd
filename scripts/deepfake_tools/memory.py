"""A failure in, whether it is that the memory was not enough out; libraries say it in many ways."""

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
