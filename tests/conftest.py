"""What many tests need: a Hub of their own, a small CLIP, the example photographs."""

import os
import shutil
import signal
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from tests import ROOT
from tests.clips import SMALL, write_repository
from tests.hub_server import HubServer

_HUB = pytest.StashKey[HubServer]()
_HF_HOME = pytest.StashKey[Path]()


def pytest_configure(config: pytest.Config) -> None:
    """Point huggingface_hub at the stand-in; it reads these once, when it is first imported."""
    if config.getoption("numprocesses", None):
        # For the workers and their children: where each computes on every core, each waits for all.
        os.environ["OMP_NUM_THREADS"] = "1"
    # A background job of a shell ignores Ctrl-C, and so would the commands that tests interrupt.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    hub = config.stash[_HUB] = HubServer()
    home = config.stash[_HF_HOME] = Path(tempfile.mkdtemp(prefix="hf-home-"))
    hub.__enter__()
    os.environ.update(HF_ENDPOINT=hub.url, HF_HOME=str(home), HF_HUB_DISABLE_PROGRESS_BARS="1")
    for name in ("HF_TOKEN", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "HUGGING_FACE_HUB_TOKEN"):
        os.environ.pop(name, None)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Close the stand-in and remove what was downloaded from it."""
    if hub := config.stash.get(_HUB, None):
        hub.__exit__(None, None, None)
        shutil.rmtree(config.stash[_HF_HOME])


@pytest.fixture(scope="session")
def hub(pytestconfig: pytest.Config) -> HubServer:
    """The Hub that this process and its children ask; add repositories under names of your own."""
    return pytestconfig.stash[_HUB]


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache for this process and for children started during the test."""
    home = tmp_path / "hf-home"
    monkeypatch.setenv("HF_HOME", str(home))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(home / "hub"))
    return home


@pytest.fixture(scope="session")
def small_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small CLIP as on the Hub, both towers, in safetensors."""
    return write_repository(tmp_path_factory.mktemp("clips") / "small-clip", SMALL)


@pytest.fixture(scope="session")
def examples() -> list[Path]:
    """The example photographs, in the order of their names."""
    return sorted((ROOT / "examples").glob("*.jpg"))


@pytest.fixture(scope="session")
def predictors(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """Small landmark predictors of so many points, each trained on the spot, once."""
    from tests.portraits import train_predictor

    folder = tmp_path_factory.mktemp("landmarks")
    return cache(lambda points: train_predictor(folder / f"trained_{points}.dat", points))


@pytest.fixture(scope="session")
def landmarks(predictors: Callable[[int], Path]) -> Path:
    """The one of 81 points."""
    return predictors(81)


@pytest.fixture(params=["trained", "given"])
def any_landmarks(request: pytest.FixtureRequest) -> Path:
    """That one, and the real one that CLIP_DEEPFAKE_LANDMARKS names."""
    if request.param == "trained":
        return request.getfixturevalue("landmarks")
    if "CLIP_DEEPFAKE_LANDMARKS" not in os.environ:
        pytest.skip("CLIP_DEEPFAKE_LANDMARKS names no landmark predictor")
    return Path(os.environ["CLIP_DEEPFAKE_LANDMARKS"]).resolve()
