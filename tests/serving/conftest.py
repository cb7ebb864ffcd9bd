"""A real TorchServe for each test module that asks for one."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from deepfake_tools.torchserve.local_server import LocalServer

from tests import ROOT

CONFIG = ROOT / "config.properties"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty model store, alone in its parent folder."""
    folder = tmp_path_factory.mktemp("served") / "model_store"
    folder.mkdir()
    return folder


@pytest.fixture(scope="module")
def start_server(store: Path) -> Iterator[Callable[..., LocalServer]]:
    """Starts a TorchServe on that store, by the repository's config.properties."""
    with ExitStack() as stack:
        yield lambda **options: stack.enter_context(LocalServer(store, CONFIG, **options))
