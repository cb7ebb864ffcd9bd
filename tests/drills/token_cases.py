"""Requests with no token, or not the right one, and key files that are no secret."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import psutil
from deepfake_tools.torchserve.local_server import LocalServer

from tests.drills.site import NOTHING, NewLines, Row, Site, shortened

REFUSED = (400, "InvalidKeyException")
LOOPBACK = {"127.0.0.1", "::1"}
PORTS = 5
"""Inference and management over HTTP and over gRPC, and metrics."""


def tokens(server: LocalServer) -> dict[str, str]:
    """Returns a server's tokens by their purpose."""
    keys = json.loads(server.key_file.read_text(encoding="utf-8"))
    return {purpose: entry["key"] for purpose, entry in keys.items()}


def guarded_calls(server: LocalServer, name: str) -> list[tuple[str, str, str]]:
    """Returns purpose, method and URL of every call that wants a token."""
    inference = [
        ("GET", "/ping"),
        ("POST", f"/predictions/{name}"),
        ("POST", f"/explanations/{name}"),
        ("POST", f"/v1/models/{name}:predict"),
        ("POST", f"/v2/models/{name}/infer"),
    ]
    management = [
        ("GET", "/models"),
        ("GET", f"/models/{name}"),
        ("POST", "/models?url=x.mar"),
        ("PUT", f"/models/{name}?min_worker=1"),
        ("PUT", f"/models/{name}/1/set-default"),
        ("DELETE", f"/models/{name}"),
        ("GET", "/token?type=inference"),
    ]
    return [("inference", method, server.inference_url + path) for method, path in inference] + [
        ("management", method, server.management_url + path) for method, path in management
    ]


def token_rows(site: Site, name: str) -> Iterator[Row]:
    """Tries every call with no token and with wrong ones."""
    known = tokens(site.server)
    for purpose, method, url in guarded_calls(site.server, name):
        other = "management" if purpose == "inference" else "inference"
        wrong = {"no token": None, "an empty one": "", "a guess": "guessed"}
        wrong |= {f"the {other} token": known[other], "one letter more": f"{known[purpose]}x"}
        if "/token" not in url:
            wrong["the API key"] = known["API"]
        lines = NewLines(site.server.logs)
        answers = {words: site.ask(method, url, token) for words, token in wrong.items()}
        path = url.partition("/")[2].partition("/")[2].partition("/")[2]
        seen = {(answer.status_code, _type(answer.text)) for answer in answers.values()}
        logged = lines.first(rf'"{method} /{re.escape(path)}')
        yield Row(
            ", ".join(wrong),
            f"{method} /{path}, {purpose} port",
            " or ".join(f"{status} {kind}" for status, kind in sorted(seen)),
            logged,
            seen == {REFUSED} and logged != NOTHING,
        )


def expired_rows(site: Site, name: str) -> Iterator[Row]:
    """Tries the tokens of a server whose tokens expire at once."""
    known = tokens(site.server)
    for purpose, url in (
        ("inference", f"{site.server.inference_url}/predictions/{name}"),
        ("management", f"{site.server.management_url}/models"),
    ):
        lines = NewLines(site.server.logs)
        method = "POST" if purpose == "inference" else "GET"
        answer = site.ask(method, url, known[purpose])
        found, logged = (answer.status_code, _type(answer.text)), lines.first(f'"{method} ')
        yield Row(
            "an expired token",
            f"{method} {purpose} port",
            f"{found[0]} {found[1]}",
            logged,
            found == REFUSED and logged != NOTHING,
        )


def port_rows(site: Site) -> Iterator[Row]:
    """Looks where the ports listen, and which of them want no token."""
    process = psutil.Process(int(site.server.pid_file.read_text("ascii")))
    places = {
        (connection.laddr.ip.removeprefix("::ffff:"), connection.laddr.port)
        for connection in process.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    }
    listening = {address for address, _ in places}
    yield Row(
        "ports that listen for other machines",
        f"the {len(places)} ports of the process: HTTP, metrics, gRPC",
        f"listening on {', '.join(sorted(listening))}",
        NOTHING,
        len(places) >= PORTS and listening <= LOOPBACK,
    )
    metrics = site.ask("GET", f"{site.server.metrics_url}/metrics", None)
    yield Row(
        "no token",
        "GET /metrics, metrics port",
        f"{metrics.status_code}: it wants none, so it is on loopback alone",
        NOTHING,
        metrics.status_code == 200,
    )


def key_file_rows(site: Site, image: Path, folder: Path) -> Iterator[Row]:
    """Gives both commands a key file that others can read."""
    public = folder / "public_key_file.json"
    shutil.copy(site.server.key_file, public)
    public.chmod(0o644)
    output = ("--image", image, "--output", folder / "public.txt")
    for script, words in (("client.py", output), ("manage.py", ("list",))):
        done = site.run(script, *words, key_file=public)
        yield Row(
            "a key file that others can read",
            f"{script} --key-file FILE",
            f"exit code {done.returncode}: {_last(done.stderr, public)}",
            NOTHING,
            done.returncode == 11 and f"chmod 600 {public}" in done.stderr,
        )


def secrecy_row(site: Site, texts: list[str]) -> Row:
    """Looks for the tokens in command lines, logs and what commands have said."""
    secrets = list(tokens(site.server).values())
    lines = [
        " ".join(process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"])
    ]
    logs = [
        path.read_text(encoding="utf-8", errors="replace")
        for path in (*site.server.logs.glob("*.log"), site.server.directory / "torchserve.out")
    ]
    places = {"command lines": lines, "logs": logs, "output of commands": texts}
    found = [
        name
        for name, some in places.items()
        if any(secret in text for secret in secrets for text in some)
    ]
    count = sum(map(len, places.values()))
    return Row(
        "a token where others can see it",
        f"{len(secrets)} tokens looked for in {count} command lines, logs and outputs",
        f"found in {', '.join(found)}" if found else "found in none",
        NOTHING,
        not found,
    )


def _type(text: str) -> str:
    try:
        return str(json.loads(text)["type"])
    except (ValueError, TypeError, KeyError):
        return "another shape"


def _last(text: str, path: Path) -> str:
    lines = text.strip().splitlines()
    return shortened(lines[-1].replace(str(path), "FILE")) if lines else "no word"
