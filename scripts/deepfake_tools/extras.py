"""The libraries that only some options need: whether they are here, or what to install."""

from importlib.util import find_spec

LIBRARIES = {
    "evaluate": {
        "cv2": "opencv-python-headless",
        "matplotlib": "matplotlib",
        "numpy": "numpy",
        "PIL": "pillow",
        "sklearn": "scikit-learn",
    },
    "benchmark": {
        "litserve": "litserve",
        "matplotlib": "matplotlib",
        "psutil": "psutil",
        "torch": "torch",
        "transformers": "transformers",
        "ts": "torchserve",
    },
}
"""Package names by the modules of each extra."""


class MissingExtraError(Exception):
    """An option was used whose libraries are not installed; the message says what to type."""


def require_extra(purpose: str, *modules: str, extra: str = "evaluate") -> None:
    """Makes sure that libraries are installed, without importing them.

    Called before a long run, so that the run does not end in a missing library.

    Args:
        purpose: What needs them, as the message's subject: "--report".
        modules: Some of the extra's `LIBRARIES`; all of them when none is named.
        extra: The extra.

    Raises:
        MissingExtraError: One of them is not installed.
    """
    names = LIBRARIES[extra]
    missing = [names[module] for module in modules or names if find_spec(module) is None]
    if missing:
        raise MissingExtraError(
            f"{purpose} needs {' and '.join(missing)}: pip install 'clip-deepfake[{extra}]'"
        )
