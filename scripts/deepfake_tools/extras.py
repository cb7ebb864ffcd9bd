"""The libraries that only some options need: whether they are here, or what to install."""

from importlib.util import find_spec

LIBRARIES = {
    "cv2": "opencv-python-headless",
    "matplotlib": "matplotlib",
    "numpy": "numpy",
    "PIL": "pillow",
    "sklearn": "scikit-learn",
}
"""Package names by the modules of the extra `evaluate`."""


class MissingExtraError(Exception):
    """An option was used whose libraries are not installed; the message says what to type."""


def require_extra(purpose: str, *modules: str) -> None:
    """Makes sure that libraries are installed, without importing them.

    Called before a long run, so that the run does not end in a missing library.

    Args:
        purpose: What needs them, as the message's subject: "--report".
        modules: Some of `LIBRARIES`; all of them when none is named.

    Raises:
        MissingExtraError: One of them is not installed.
    """
    missing = [LIBRARIES[name] for name in modules or LIBRARIES if find_spec(name) is None]
    if missing:
        raise MissingExtraError(
            f"{purpose} needs {' and '.join(missing)}: pip install 'clip-deepfake[evaluate]'"
        )
