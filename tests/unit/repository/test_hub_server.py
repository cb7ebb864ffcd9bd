"""The stand-in against huggingface_hub itself, which must not see a difference from the Hub."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import requests
from huggingface_hub import HfApi, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from tests.hub_server import LARGE, HubServer

pytestmark = pytest.mark.usefixtures("hub_cache")


def publish(hub: HubServer, name: str, folder: Path, **files: bytes) -> str:
    folder.mkdir(parents=True)
    for key, content in files.items():
        (folder / key.replace("__", ".")).write_bytes(content)
    return hub.add(name, folder)


def test_snapshot_download_fetches_what_matches_and_nothing_twice(
    hub: HubServer, small_clip: Path
) -> None:
    commit = hub.add("snapshot/clip", small_clip)
    wanted = ["*.json", "model.safetensors"]
    folder = Path(snapshot_download("snapshot/clip", allow_patterns=wanted))
    assert folder.name == commit
    weights = "model.safetensors"
    assert (folder / weights).read_bytes() == (small_clip / weights).read_bytes()
    first = hub.downloads("snapshot/clip")
    assert first[weights] == first["config.json"] == 1
    assert not {"tf_model.h5", "merges.txt"} & set(first)

    snapshot_download("snapshot/clip", allow_patterns=wanted)
    assert hub.downloads("snapshot/clip") == first


def test_large_files_arrive_whole_under_their_sha256(hub: HubServer, tmp_path: Path) -> None:
    content = os.urandom(LARGE + 1)
    publish(hub, "large/files", tmp_path / "repository", weights__bin=content)
    assert Path(hf_hub_download("large/files", "weights.bin")).read_bytes() == content
    listing = HfApi().model_info("large/files", files_metadata=False).siblings
    assert listing is not None
    assert [file.rfilename for file in listing] == ["weights.bin"]
    (entry,) = HfApi().list_repo_tree("large/files")
    assert entry.lfs.sha256 == hashlib.sha256(content).hexdigest()


def test_branches_move_and_commits_stay(hub: HubServer, tmp_path: Path) -> None:
    old = publish(hub, "moving/branch", tmp_path / "old", config__json=b"1")
    new = publish(hub, "moving/branch", tmp_path / "new", config__json=b"2")
    info = HfApi().model_info
    assert (info("moving/branch").sha, info("moving/branch", revision=old).sha) == (new, old)
    assert Path(hf_hub_download("moving/branch", "config.json")).read_bytes() == b"2"
    at_old = hf_hub_download("moving/branch", "config.json", revision=old)
    assert Path(at_old).read_bytes() == b"1"


def test_revisions_with_a_slash_in_their_name(hub: HubServer, tmp_path: Path) -> None:
    publish(hub, "a/pull-request", tmp_path / "repository", config__json=b"{}")
    hub.add("a/pull-request", tmp_path / "repository", "refs/pr/1")
    path = hf_hub_download("a/pull-request", "config.json", revision="refs/pr/1")
    assert Path(path).read_bytes() == b"{}"


def test_what_is_not_there_has_the_hubs_errors(hub: HubServer, tmp_path: Path) -> None:
    publish(hub, "almost/empty", tmp_path / "repository", config__json=b"{}")
    with pytest.raises(RepositoryNotFoundError):
        snapshot_download("not/there")
    with pytest.raises(RevisionNotFoundError):
        snapshot_download("almost/empty", revision="not-there")
    with pytest.raises(RemoteEntryNotFoundError):
        hf_hub_download("almost/empty", "not-there.json")


def test_a_gated_repository_opens_to_its_readers_only(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(hub, "gated/clip", tmp_path / "repository", config__json=b"{}")
    hub.add("gated/clip", tmp_path / "repository", readers=frozenset({"hf_reader"}))
    with pytest.raises(GatedRepoError):
        snapshot_download("gated/clip")
    monkeypatch.setenv("HF_TOKEN", "hf_stranger")
    with pytest.raises(GatedRepoError):
        snapshot_download("gated/clip")
    monkeypatch.setenv("HF_TOKEN", "hf_reader")
    assert (Path(snapshot_download("gated/clip")) / "config.json").read_bytes() == b"{}"


@pytest.mark.parametrize(
    ("asked", "range_", "content"),
    [("bytes=3-", "3-9/10", b"3456789"), ("bytes=2-4", "2-4/10", b"234")],
)
def test_a_range_continues_a_download(
    hub: HubServer, tmp_path: Path, asked: str, range_: str, content: bytes
) -> None:
    publish(hub, f"a/range-{len(content)}", tmp_path / "repository", weights__bin=b"0123456789")
    url = f"{hub.url}/a/range-{len(content)}/resolve/main/weights.bin"
    answer = requests.get(url, headers={"Range": asked}, timeout=10)
    assert (answer.status_code, answer.content) == (206, content)
    assert answer.headers["Content-Range"] == f"bytes {range_}"


def test_children_ask_the_same_hub_with_the_tests_cache(
    hub: HubServer, hub_cache: Path, tmp_path: Path
) -> None:
    publish(hub, "for/children", tmp_path / "repository", config__json=b"{}")
    code = (
        "from huggingface_hub import hf_hub_download as d; print(d('for/children', 'config.json'))"
    )
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert Path(child.stdout.strip()).is_relative_to(hub_cache)
