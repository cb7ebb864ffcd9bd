"""Clips, each made once."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from tests.bad_videos import BAD
from tests.videos import write_form


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The clip of a name in `FORMS`."""
    folder = tmp_path_factory.mktemp("clips")
    return cache(lambda name: write_form(name, folder))


@pytest.fixture(scope="session")
def bad_clip(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The clip of a name in `BAD`."""
    folder = tmp_path_factory.mktemp("bad-clips")
    return cache(lambda name: BAD[name](folder))
