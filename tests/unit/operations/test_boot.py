import shlex
from pathlib import Path

import pytest
from deepfake_tools.inspection import ArchiveName
from deepfake_tools.operations.boot import Served, renew, served_path
from deepfake_tools.store import Store
from deepfake_tools.torchserve.properties import read_settings

from tests import ROOT
from tests.archives import write_archive

CONFIG = ROOT / "config.properties"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    folder = tmp_path / "model_store"
    folder.mkdir()
    return Store(folder)


def test_it_is_the_configuration_but_for_the_models(store):
    Served({"b": "1", "a": "10"}).write(served_path(store), CONFIG, store)

    settings = read_settings(served_path(store).read_text())
    expected = read_settings(CONFIG.read_text())
    expected["load_models"] = "a@10.mar,b@1.mar"
    expected["model_store"] = str(store.folder)
    expected["previous_models"] = ""
    expected["left_out_models"] = ""
    assert settings == expected


def test_what_is_written_is_read_again(store):
    served = Served()
    served.choose(ArchiveName("a", "1"))
    served.choose(ArchiveName("a", "2"), instead_of="1")
    served.write(served_path(store), CONFIG, store)

    assert Served.read(served_path(store)) == Served({"a": "2"}, {"a": "1"})


def test_where_nobody_has_chosen_the_newest_are_served(store):
    write_archive(store.folder, "a", "9")
    write_archive(store.folder, "a", "10")

    assert renew(store, CONFIG) == []
    assert Served.read(served_path(store)).versions == {"a": "10"}
    # The store may be one that the server can only read.
    assert {path.name for path in store.folder.iterdir()} == {"a@9.mar", "a@10.mar"}


def test_choices_stand_and_what_they_leave_out_is_named(store):
    Served({"a": "1", "gone": "1"}).write(served_path(store), CONFIG, store)
    for name, version in (("a", "1"), ("a", "2"), ("b", "1")):
        write_archive(store.folder, name, version)

    gone, newer, unknown = renew(store, CONFIG)

    assert Served.read(served_path(store)).versions == {"a": "1", "gone": "1"}
    assert "gone version 1 is not started" in gone
    assert "gone@1.mar is no file" in gone
    assert f"manage.py swap {store.folder / 'a@2.mar'}" in newer
    assert f"manage.py register {store.folder / 'b@1.mar'}" in unknown


def test_the_commands_of_notices_can_be_pasted_whatever_the_folder_is_called(tmp_path):
    store = Store(tmp_path / "my models" / "model_store")
    store.folder.mkdir(parents=True)
    Served({"a": "1", "gone": "1"}).write(served_path(store), CONFIG, store)
    for version in ("1", "2"):
        write_archive(store.folder, "a", version)

    gone, newer = renew(store, CONFIG)

    typed = [shlex.split(notice.split("`")[1]) for notice in (gone, newer)]
    assert typed[0] == ["python", "scripts/manage.py", "unregister", "gone"]
    assert typed[1] == ["python", "scripts/manage.py", "swap", str(store.folder / "a@2.mar")]


def test_dotted_versions_count_as_numbers(store):
    Served({"a": "1.9"}).write(served_path(store), CONFIG, store)
    for version in ("1.8", "1.9", "1.10"):
        write_archive(store.folder, "a", version)

    (newer,) = renew(store, CONFIG)

    assert "manage.py swap" in newer
    assert "a@1.10.mar" in newer


def test_an_archive_that_no_server_should_see_is_not_started_and_stays_chosen(store):
    Served({"a": "1", "b": "1"}).write(served_path(store), CONFIG, store)
    write_archive(store.folder, "b", "1")
    altered = write_archive(store.folder, "a", "1")
    whole = altered.read_bytes()
    altered.write_bytes(whole + b"behind")

    (notice,) = renew(store, CONFIG)

    assert "a version 1 is not started" in notice
    assert read_settings(served_path(store).read_text())["load_models"] == "b@1.mar"
    assert Served.read(served_path(store)).versions == {"a": "1", "b": "1"}

    altered.write_bytes(whole)
    assert renew(store, CONFIG) == []
    assert read_settings(served_path(store).read_text())["load_models"] == "a@1.mar,b@1.mar"


def test_a_model_that_was_left_out_may_be_chosen_again_or_dropped(store):
    for change in (lambda served: served.choose(ArchiveName("a", "2")), lambda s: s.drop("a")):
        served = Served({"a": "1"}, left_out=frozenset("a"))
        change(served)
        served.write(served_path(store), CONFIG, store)
        assert Served.read(served_path(store)) == served
        assert not served.left_out


def test_a_full_disk_leaves_the_file_as_it_was(store, monkeypatch):
    Served({"a": "1"}).write(served_path(store), CONFIG, store)

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("deepfake_tools.operations.boot.os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        Served({"a": "2"}).write(served_path(store), CONFIG, store)

    assert Served.read(served_path(store)).versions == {"a": "1"}
    assert [path.name for path in store.folder.parent.iterdir() if path.is_file()] == [
        "served.properties"
    ]
