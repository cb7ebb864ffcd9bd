"""The libraries that only some options need: whether they are here, or what to install."""

from importlib.util import find_spec

EVALUATE = {
    "cv2": "opencv-python-headless",
    "jinja2": "jinja2",
    "matplotlib": "matplotlib",
    "numpy": "numpy",
    "PIL": "pillow",
    "scipy": "scipy",
    "sklearn": "scikit-learn",
}
FACES = {
    "cv2": "opencv-python-headless",
    "dlib": "dlib-bin",
    "msgspec": "msgspec",
    "numpy": "numpy",
    "PIL": "pillow",
}
INT8 = {"nncf": "nncf", "openvino": "openvino", "sklearn": "scikit-learn"}
BENCHMARK = {
    "litserve": "litserve",
    "matplotlib": "matplotlib",
    "psutil": "psutil",
    "torch": "torch",
    "transformers": "transformers",
    "ts": "torchserve",
}
TUNE = {"accelerate": "accelerate", "matplotlib": "matplotlib", "peft": "peft"}
LOGS = {"tensorboard": "tensorboard"}
VIDEOS = {"av": "av", "cv2": "opencv-python-headless", "numpy": "numpy"}
PAGE = VIDEOS | {"gradio": "gradio", "jinja2": "jinja2", "msgspec": "msgspec", "PIL": "pillow"}
HEIC = {"pillow_heif": "pillow-heif"}
SCORE = {"msgspec": "msgspec", "openvino": "openvino", "pyarrow": "pyarrow", "ray": "ray"}
BUILD = {"cv2": "opencv-python-headless", "psutil": "psutil", "torch": "torch", "ts": "torchserve"}
LIBRARIES = {
    "benchmark": BENCHMARK,
    "build": BUILD,
    "evaluate": EVALUATE,
    "faces": FACES,
    "heic": HEIC,
    "int8": INT8,
    "page": PAGE,
    "score": SCORE,
    "tune": TUNE,
    "tensorboard": LOGS,
    "videos": VIDEOS,
}
"""Package names by module, by the extra that brings them."""


class MissingExtraError(Exception):
    """An option was used whose libraries are not installed; the message says what to type."""


def require_extra(purpose: str, *modules: str, extra: str = "evaluate") -> None:
    """Makes sure that libraries are installed, without importing them.

    Called before a long run, so that the run does not end in a missing library.

    Args:
        purpose: What needs them, as the message's subject: "--report".
        modules: Some of the extra's; all of them when none is named.
        extra: What brings them.

    Raises:
        MissingExtraError: One of them is not installed.
    """
    known = LIBRARIES[extra]
    missing = [known[name] for name in modules or known if find_spec(name) is None]
    if missing:
        raise MissingExtraError(
            f"{purpose} needs {' and '.join(missing)}: pip install 'clip-deepfake[{extra}]'"
        )
