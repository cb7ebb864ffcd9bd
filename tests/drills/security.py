"""Everything that is forbidden, tried: a table of requests, answers and what was logged."""

import shutil
import subprocess
import textwrap
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from pathlib import Path

from deepfake_tools.torchserve.local_server import LocalServer

from tests.drills import image_cases, registration_cases, token_cases
from tests.drills.drill import READY_LIMIT_S, Finding, Ground
from tests.drills.site import NOTHING, Row, Site

HEADER = ("", "case", "request", "outcome", "logged")
WIDTHS = (1, 30, 34, 44, 46)

CERTIFICATE = (
    *("openssl", "req", "-x509", "-newkey", "rsa:3072", "-noenc", "-days", "2"),
    *("-keyout", "server.key", "-out", "server.pem", "-subj", "/CN=drill"),
    *("-addext", "subjectAltName=IP:127.0.0.1", "-addext", "basicConstraints=critical,CA:FALSE"),
    *("-addext", "keyUsage=critical,digitalSignature,keyEncipherment"),
    *("-addext", "extendedKeyUsage=serverAuth"),
)


def try_what_is_forbidden(ground: Ground) -> Finding:
    """Tries everything against servers of its own."""
    folder = ground.scratch / "security"
    folder.mkdir()
    rows = []
    for row in _rows(ground, folder):
        ground.say(f"{row.case}: {row.outcome}")
        rows.append(row)
    wrong = [row for row in rows if not row.is_right]
    figures = (
        f"{len(rows)} cases, {len(wrong)} of them otherwise than they must be",
        *_table(rows),
    )
    return Finding(figures, tuple(f"{row.case}, {row.request}: {row.outcome}" for row in wrong))


def _table(rows: Sequence[Row]) -> list[str]:
    body = [
        ("" if row.is_right else "!", row.case, row.request, row.outcome, row.logged)
        for row in rows
    ]
    return wrapped_table([HEADER, *body], WIDTHS).splitlines()


def wrapped_table(rows: Sequence[Sequence[str]], widths: Sequence[int]) -> str:
    """Aligns columns that are no wider than this, of cells that go on in the next line.

    Args:
        rows: The first one is the header.
        widths: Of each column, in characters.
    """
    lines = []
    for row in rows:
        cells = [textwrap.wrap(cell, width) for cell, width in zip(row, widths, strict=True)]
        for parts in zip_longest(*cells, fillvalue=""):
            padded = (part.ljust(width) for part, width in zip(parts, widths, strict=True))
            lines.append("  ".join(padded).rstrip())
    return "\n".join(lines)


def _rows(ground: Ground, folder: Path) -> Iterator[Row]:
    image = ground.photographs[0]
    name, archive = ground.name, ground.archives[0]
    with ground.serving() as server:
        site = Site(server, ground.store)
        yield from token_cases.token_rows(site, name)
        yield from token_cases.port_rows(site)
        yield from token_cases.key_file_rows(site, image, folder)
        yield from registration_cases.address_rows(site, name, archive)
        yield from registration_cases.directory_rows(site, archive, folder)
        yield from registration_cases.archive_rows(site, archive, folder)
        yield registration_cases.altered_weights_row(site, archive)
        yield from image_cases.image_rows(site, name, short=ground.short)
        said = [
            site.run("client.py", "--model", name, "--image", image, "--output", folder / "a.txt"),
            site.run("manage.py", "list"),
        ]
        texts = [done.stdout + done.stderr for done in said]
        yield token_cases.secrecy_row(site, texts)
    with LocalServer(
        ground.store, ground.config, settings={"load_models": "", "token_expiration_min": "0"}
    ) as server:
        yield from token_cases.expired_rows(Site(server, ground.store), name)
    yield from _tls_rows(ground, folder, image)


def _tls_rows(ground: Ground, folder: Path, image: Path) -> Iterator[Row]:
    if shutil.which("openssl") is None:
        yield Row(
            "https", "none", "not tried: openssl, for a certificate, is missing", NOTHING, True
        )
        return
    subprocess.run(CERTIFICATE, cwd=folder, check=True, capture_output=True)
    certificate = folder / "server.pem"
    settings = {
        "load_models": ground.archives[0].name,
        "certificate_file": str(certificate),
        "private_key_file": str(folder / "server.key"),
    }
    with LocalServer(ground.store, ground.config, settings=settings, ca=certificate) as server:
        server.wait_ready(ground.name, limit_s=READY_LIMIT_S)
        site = Site(server, ground.store, certificate)
        words = ("--model", ground.name, "--image", image, "--output", folder / "tls.txt")
        for case, more, code in (
            ("https, its certificate unknown", (), 13),
            ("https, its certificate given", ("--ca", certificate), 0),
        ):
            done = site.run("client.py", *words, *more)
            yield Row(
                case,
                f"client.py{' --ca FILE' if more else ''}",
                f"exit code {done.returncode}",
                NOTHING,
                done.returncode == code,
            )
