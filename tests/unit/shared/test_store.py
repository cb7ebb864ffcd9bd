import os
import socket
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import pytest
from deepfake_tools.inspection import ArchiveError, ArchiveName, inspect_archive
from deepfake_tools.packaging.archive import plain_entry
from deepfake_tools.store import Store, StoreError, next_version

from tests import ROOT
from tests.archives import write_archive


@pytest.fixture
def store(tmp_path: Path) -> Store:
    folder = tmp_path / "model_store"
    folder.mkdir()
    return Store(folder)


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    return folder


@pytest.mark.parametrize(
    "name", ["openai--clip-vit-base-patch32", "a", "laion--CLIP-ViT-B-32.v2_x"]
)
def test_a_file_name_holds_name_and_version(name):
    for version in ("12", "1.0", "0.12.3"):
        assert ArchiveName.parse(f"{name}@{version}.mar") == ArchiveName(name, version)
        assert ArchiveName(name, version).file_name == f"{name}@{version}.mar"


@pytest.mark.parametrize(
    "file_name",
    [
        *("a@1..0.mar", "a@1.00.mar", "a@1.mar.mar", "a@.1.mar", "a@1..mar", "a@1.x.mar"),
        *("a.mar", "a@0.mar", "a@01.mar", "a@1.zip", "a..b@1.mar", "../a@1.mar"),
        *(".a@1.mar", "a b@1.mar", "a,b@1.mar", "a@b@1.mar", "@1.mar", "a@1.mar\n", "ä@1.mar"),
    ],
)
def test_a_name_that_a_server_would_stumble_over_is_refused(file_name):
    with pytest.raises(ArchiveError, match="no name for an archive"):
        ArchiveName.parse(file_name)


def test_versions_count_as_numbers(store):
    for version in ("9", "10", "2"):
        write_archive(store.folder, "a", version)
    write_archive(store.folder, "b", "1")
    (store.folder / "notes.mar").touch()

    assert [archive.version for archive in store.archives() if archive.name == "a"] == [
        "2",
        "9",
        "10",
    ]
    assert store.newest() == {"a": "10", "b": "1"}
    assert next_version(store.folder, "a") == "11"
    assert next_version(store.folder / "missing", "a") == "1"


def test_dotted_versions_are_ordered_by_their_numbers(store):
    for version in ("1.10", "1.9", "2", "1.9.1", "0.1"):
        write_archive(store.folder, "a", version)

    ordered = [archive.version for archive in store.archives()]
    assert ordered == ["0.1", "1.9", "1.9.1", "1.10", "2"]
    assert store.newest() == {"a": "2"}
    write_archive(store.folder, "a", "10.0")
    assert store.newest() == {"a": "10.0"}
    assert next_version(store.folder, "a") == "11"


def test_a_directory_named_like_an_archive_is_none(store):
    write_archive(store.folder, "a", "1")
    (store.folder / "a@2.mar").mkdir()

    assert store.newest() == {"a": "1"}


def test_an_archive_in_order_is_named(store):
    assert inspect_archive(write_archive(store.folder, "a", "3")) == ArchiveName("a", "3")


def test_one_flipped_byte_anywhere_in_the_weights_is_found(store):
    path = write_archive(store.folder)
    content = bytearray(path.read_bytes())
    content[content.index(b"weights of")] ^= 1
    path.write_bytes(content)

    with pytest.raises(ArchiveError, match="damaged"):
        inspect_archive(path)


def test_weights_that_differ_from_the_card_in_a_valid_zip_are_found(store):
    path = write_archive(store.folder, replace={"head.safetensors": b"Weights of 1"})

    with pytest.raises(ArchiveError, match="SHA-256"):
        inspect_archive(path)


def test_a_file_that_was_cut_off_is_found(store):
    path = write_archive(store.folder)
    path.write_bytes(path.read_bytes()[:-100])

    with pytest.raises(ArchiveError, match="damaged"):
        inspect_archive(path)


def test_a_renamed_archive_is_refused(store):
    path = write_archive(store.folder, "a", "1")
    renamed = path.rename(store.folder / "a@2.mar")

    with pytest.raises(ArchiveError, match="named for a version 2, but"):
        inspect_archive(renamed)


@pytest.mark.parametrize(
    ("replace", "message"),
    [
        ({"detector.json": b"{}"}, "says None version None"),
        ({"detector.json": b"[]"}, "not a JSON object"),
        ({"detector.json": b"\xff"}, "not JSON"),
        ({"detector.json": b"[" * 100_000}, "not JSON"),
        ({"MAR-INF/MANIFEST.json": b"{}"}, "nothing of a model"),
        ({"../evil.py": b""}, "path to elsewhere"),
        ({"/etc/evil": b""}, "path to elsewhere"),
        ({"..\\evil.py": b""}, "path to elsewhere"),
    ],
)
def test_bad_content_is_refused(store, replace, message):
    with pytest.raises(ArchiveError, match=message):
        inspect_archive(write_archive(store.folder, replace=replace))


@pytest.mark.parametrize("missing", ["MAR-INF/MANIFEST.json", "detector.json", "head.safetensors"])
def test_a_missing_part_is_named(store, elsewhere, missing):
    whole = write_archive(elsewhere)
    path = store.folder / whole.name
    with zipfile.ZipFile(whole) as source, zipfile.ZipFile(path, "w") as target:
        for entry in source.infolist():
            if entry.filename != missing:
                target.writestr(entry, source.read(entry))

    with pytest.raises(ArchiveError, match=missing):
        inspect_archive(path)


def test_a_handler_that_is_not_there_is_named(store):
    with pytest.raises(ArchiveError, match=r"lacks the handler 'other.py'"):
        inspect_archive(write_archive(store.folder, manifest={"handler": "other.py"}))


def test_a_link_inside_is_refused(store):
    path = write_archive(store.folder)
    link = plain_entry("passwords")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(link, "/etc/passwd")

    with pytest.raises(ArchiveError, match="not their directory alone"):
        inspect_archive(path)


def test_a_deflated_entry_is_refused_unread(store):
    path = write_archive(store.folder)
    bomb = plain_entry("zeros")
    bomb.compress_type = zipfile.ZIP_DEFLATED
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(bomb, bytes(64 << 20))

    with pytest.raises(ArchiveError, match="in another form than"):
        inspect_archive(path)


def test_an_archive_from_elsewhere_is_copied(store, elsewhere):
    source = write_archive(elsewhere)

    with store.adding(source) as archive:
        pass

    assert store.path(archive).read_bytes() == source.read_bytes()
    assert [path.name for path in store.folder.iterdir()] == [source.name]


def test_a_copy_goes_when_what_it_was_for_fails(store, elsewhere):
    source = write_archive(elsewhere)

    with pytest.raises(KeyboardInterrupt), store.adding(source):
        raise KeyboardInterrupt

    assert not list(store.folder.iterdir())


def test_a_file_of_the_store_stays_when_what_it_was_for_fails(store):
    source = write_archive(store.folder)

    with pytest.raises(KeyboardInterrupt), store.adding(source):
        raise KeyboardInterrupt

    assert source.exists()


def test_another_file_of_the_same_name_is_not_overwritten(store, elsewhere):
    kept = write_archive(store.folder, workers=1).read_bytes()
    source = write_archive(elsewhere, workers=2)

    with pytest.raises(StoreError, match="--version 2"), store.adding(source):
        pass

    assert (store.folder / source.name).read_bytes() == kept


def test_two_commands_do_not_share_the_store(store):
    attempt = (
        "from pathlib import Path; from deepfake_tools.store import Store, StoreError\n"
        f"try:\n  with Store(Path({str(store.folder)!r})).lock(): print('in')\n"
        "except StoreError as error: print(error)"
    )
    scripts = ROOT / "scripts"

    def other_command() -> str:
        return subprocess.run(
            [sys.executable, "-c", attempt],
            env={"PYTHONPATH": str(scripts)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout

    with store.lock():
        assert f"process {os.getpid()} on {socket.gethostname()} is changing" in other_command()
    assert other_command() == "in\n"


def test_what_only_reads_a_store_writes_nothing_into_it(store):
    archive = write_archive(store.folder, "a")
    before = sorted(store.folder.iterdir())

    with store.lock(), store.adding(archive):
        assert sorted(store.folder.iterdir()) == before

    assert sorted(store.folder.iterdir()) == before


def test_a_store_that_is_not_there_is_named(tmp_path):
    with pytest.raises(StoreError, match="no model store at"), Store(tmp_path / "none").lock():
        pass


def test_a_command_may_wait_for_another(store):
    entered = []

    def wait() -> None:
        with store.lock(wait_s=30):
            entered.append(True)

    other = threading.Thread(target=wait)
    with store.lock():
        other.start()
        with pytest.raises(StoreError), store.lock(wait_s=0.1):
            pass
        assert not entered
    other.join()
    assert entered
