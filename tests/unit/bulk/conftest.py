"""What tests of bulk scoring share: a small archive, its detector, a Ray, images and Parquet."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

if TYPE_CHECKING:
    from clip_deepfake.detector import Detector

ROWS = Mapping[str, dict[str, Any]]
Score = Callable[..., int]


@pytest.fixture(scope="session")
def archive(small_clip: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The archive of a detector of a few layers."""
    from tests.building import Builder

    builder = Builder(tmp_path_factory.mktemp("bulk-store"))
    return builder("--model", small_clip, "--served-name", "small").path


@pytest.fixture(scope="session")
def other_archive(small_clip: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another one."""
    from tests.building import Builder

    builder = Builder(tmp_path_factory.mktemp("other-store"))
    return builder("--model", small_clip, "--served-name", "other", "--version", "7").path


@pytest.fixture(scope="session")
def detector(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Detector:
    """The archive's detector, in this process."""
    from clip_deepfake.loading import load_detector

    folder = tmp_path_factory.mktemp("unpacked")
    shutil.unpack_archive(archive, folder, "zip")
    return load_detector(folder)


@pytest.fixture(scope="module")
def local_ray() -> Iterator[None]:
    """Ray on this machine, for all tests of a module."""
    import ray
    from deepfake_tools.bulk.cluster import ray_running

    with ray_running(None):
        assert ray.is_initialized()
        yield


@pytest.fixture
def score(archive: Path, local_ray: None) -> Score:
    """Runs score.py with this archive in this process; returns its exit code."""
    import score as command

    def run(*words: object, archive: Path = archive) -> int:
        return command.main(["--archive", str(archive), *map(str, words)])

    return run


def rows_of(folder: Path) -> dict[str, dict[str, Any]]:
    """A data set's rows by path, as pyarrow reads it; none stands there twice."""
    rows = ds.dataset(folder).to_table().to_pylist()
    assert len({row["path"] for row in rows}) == len(rows)
    return {row["path"]: row for row in rows}


def write_parquet(path: Path, columns: Mapping[str, Sequence[object]], group: int = 50) -> Path:
    pq.write_table(pa.table(dict(columns)), path, row_group_size=group)
    return path
