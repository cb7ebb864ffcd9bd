"""What must not be registered: addresses, paths, directories, archives that are made to hurt."""

import re
import shutil
import stat
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

from deepfake_tools.inspection import ArchiveError, ArchiveName
from deepfake_tools.packaging.archive import plain_entry

from tests.drills.site import NOTHING, NewLines, Row, Site, shortened
from tests.drills.token_cases import tokens

ADDRESSES = (
    "http://127.0.0.1:9/x.mar",
    "https://example.org/x.mar",
    "file:///etc/passwd",
    "s3://b/x.mar",
)
VERSION = "7"
"""Of what is refused: no version of the drill's own."""

BOMB_BYTES = 64 << 20


def address_rows(site: Site, name: str, archive: Path) -> Iterator[Row]:
    """Asks TorchServe to register from URLs and from above its store."""
    outside = site.store.parent / archive.name
    shutil.copy(archive, outside)
    above = (f"../{outside.name}", f"x/../../{outside.name}", f"..%2F{outside.name}")
    for url in (*ADDRESSES, *above):
        lines = NewLines(site.server.logs)
        answer = site.ask(
            "POST",
            f"{site.server.management_url}/models",
            tokens(site.server)["management"],
            params={"url": url},
        )
        served = [model.name for model in site.server.management().models()]
        logged = lines.first(r'"POST /models')
        yield Row(
            "registering from above the store" if url in above else "registering from an address",
            f"POST /models?url={url}",
            str(answer.status_code),
            logged,
            answer.status_code in (400, 404) and served == [name] and logged != NOTHING,
        )
    outside.unlink()


def directory_rows(site: Site, archive: Path, folder: Path) -> Iterator[Row]:
    """Registers an unpacked archive from elsewhere: manage.py refuses, TorchServe does not."""
    unpacked = folder / "elsewhere"
    with zipfile.ZipFile(archive) as file:
        file.extractall(unpacked)
    done = site.run("manage.py", "register", unpacked)
    yield Row(
        "a directory elsewhere, by manage.py",
        "manage.py register DIRECTORY",
        f"exit code {done.returncode}: {_said(done.stderr, folder)}",
        NOTHING,
        done.returncode == ArchiveError.exit_code,
    )
    lines = NewLines(site.server.logs)
    url, management = f"{site.server.management_url}/models", tokens(site.server)["management"]
    params = {"url": str(unpacked), "model_name": "elsewhere"}
    answer = site.ask("POST", url, management, params=params)
    logged = lines.first(r'"POST /models')
    yield Row(
        "a directory elsewhere, by the token itself",
        "POST /models?url=DIRECTORY",
        f"{answer.status_code}: TorchServe does it; the token is the right to run code",
        logged.replace(str(folder), "…"),
        answer.status_code == 200 and logged != NOTHING,
    )
    site.ask("DELETE", f"{url}/elsewhere", management)


def archive_rows(site: Site, archive: Path, folder: Path) -> Iterator[Row]:
    """Gives manage.py archives that are made to hurt."""
    name = ArchiveName.parse(archive.name).name
    for case, spoil in SPOILT.items():
        target = folder / f"{name}@{VERSION}.mar"
        _rewrite(archive, target, spoil)
        done = site.run("manage.py", "register", target)
        registered = site.server.management().versions(name)
        yield Row(
            f"an archive with {case}",
            "manage.py register FILE.mar",
            f"exit code {done.returncode}: {_said(done.stderr, folder)}",
            NOTHING,
            done.returncode == ArchiveError.exit_code
            and len(registered) == 1
            and not (site.store / target.name).exists(),
        )


def altered_weights_row(site: Site, archive: Path) -> Row:
    """Registers, past manage.py, an archive whose weights are not its card's."""
    name = ArchiveName.parse(archive.name).name
    target = site.store / f"{name}@{VERSION}.mar"
    _rewrite(archive, target, _alter_weights)
    lines = NewLines(site.server.logs)
    url, management = f"{site.server.management_url}/models", tokens(site.server)["management"]
    params = {"url": target.name, "initial_workers": "1", "synchronous": "true"}
    answer = site.ask("POST", url, management, params=params)
    logged = lines.first(r"clip_deepfake load failed: .*is damaged: its SHA-256")
    site.ask("DELETE", f"{url}/{name}/{VERSION}", management)
    target.unlink()
    return Row(
        "altered weights, past manage.py",
        "POST /models?url=FILE.mar",
        f"{answer.status_code}: the worker refuses to start",
        logged,
        answer.status_code == 500 and logged != NOTHING,
    )


Entries = list[tuple[zipfile.ZipInfo, bytes]]


def _rewrite(source: Path, target: Path, spoil: Callable[[Entries], None]) -> None:
    """Copies an archive under the refused version's name, spoilt."""
    with zipfile.ZipFile(source) as archive:
        entries = [(entry, archive.read(entry)) for entry in archive.infolist()]
    old = re.escape(ArchiveName.parse(source.name).version.encode())
    fields = rb'("(?:modelVersion|version)": ?)"%b"' % old
    for index, (entry, data) in enumerate(entries):
        if entry.filename in ("detector.json", "MAR-INF/MANIFEST.json"):
            renamed = re.sub(fields, rb'\g<1>"%b"' % VERSION.encode(), data)
            entries[index] = (plain_entry(entry.filename), renamed)
    spoil(entries)
    with zipfile.ZipFile(target, "w") as archive:
        for entry, data in entries:
            archive.writestr(entry, data)


def _alter_weights(entries: Entries) -> None:
    for index, (entry, data) in enumerate(entries):
        if entry.filename.endswith(".safetensors"):
            entries[index] = (plain_entry(entry.filename), data[:-1] + bytes([data[-1] ^ 1]))


def _add_link(entries: Entries) -> None:
    link = plain_entry("notes")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    entries.append((link, b"/etc/passwd"))


def _add_bomb(entries: Entries) -> None:
    """Adds zeros, which unpack to a thousand times what they take in the archive."""
    bomb = plain_entry("zeros")
    bomb.compress_type = zipfile.ZIP_DEFLATED
    entries.append((bomb, bytes(BOMB_BYTES)))


def _name(path: str) -> Callable[[Entries], None]:
    return lambda entries: entries.append((plain_entry(path), b"import os\n"))


SPOILT: dict[str, Callable[[Entries], None]] = {
    "a name above its folder": _name("../evil.py"),
    "an absolute name": _name("/tmp/evil.py"),
    "a link inside": _add_link,
    "a bomb inside": _add_bomb,
    "altered weights": _alter_weights,
}


def _said(text: str, folder: Path) -> str:
    lines = text.strip().splitlines()
    return shortened(lines[-1].replace(str(folder), "…")) if lines else "no word"
