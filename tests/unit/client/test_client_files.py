"""The client and the files that it is given: what it reads, what it leaves out, where it writes."""

import json
import os
import stat
import threading
from pathlib import Path

import pytest

from tests.unit.client_runs import Client
from tests.unit.torchserve_stub import Reply, Request, StubServer, answer_each, json_reply, verdict

RESULTS = "inference_results_huggingface.txt"


def answer(request: Request) -> Reply:
    return answer_each(request, lambda image: json_reply(verdict(0.75 if b"f" in image else 0.25)))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for name in ("0_real/1.jfif", "0_real/2.gif", "1_fake/RealVisXL_V4/1.jpe", "1_fake/2.svg"):
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("f" if "fake" in name else "r")
    return tmp_path / "data"


def test_folders_labels_counts_and_what_is_left_out_are_said_first(client: Client, data: Path):
    os.mkfifo(data / "0_real" / "3.jpg")
    (data / "RealVideo-FakeAudio").mkdir()
    (data / "RealVideo-FakeAudio" / "1.png").write_text("f")
    with StubServer(answer) as stub:
        run = client("--image", "data", server=stub.address)
    assert run.code == 0
    assert run.err.splitlines()[:6] == [
        "FOLDER               LABEL                     IMAGES",
        "0_real               REAL                           2",
        "1_fake               FAKE                           1",
        "RealVideo-FakeAudio  none: the name says both       1",
        "note: 1 file has another ending than an image and is left out (.svg 1)",
        "note: 1 with an image's ending left out: no regular files, but FIFOs, sockets, devices or "
        "links that lead nowhere",
    ]
    assert "4 images (2 real, 1 fake, 1 without a label)" in run.out


@pytest.mark.parametrize("encoding", ["utf-16", "nul"])
def test_a_list_as_other_programs_write_it_is_read(
    client: Client, data: Path, tmp_path: Path, encoding: str
):
    names = ["data/0_real/1.jfif", "data/1_fake/RealVisXL_V4/1.jpe"]
    content = (
        "\0".join(names).encode() if encoding == "nul" else "\r\n".join(names).encode("utf-16")
    )
    (tmp_path / "list.txt").write_bytes(content)
    with StubServer(answer) as stub:
        run = client("--image", "list.txt", server=stub.address)
    assert run.code == 0
    assert "2 images (1 real, 1 fake, 0 without a label)" in run.out


def test_a_binary_list_ends_at_once_and_is_not_in_the_way_of_the_next_run(
    client: Client, data: Path, tmp_path: Path
):
    (tmp_path / "photo.txt").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(range(256)))
    refused = client("--image", "photo.txt")
    assert refused.code == 2
    assert "the list photo.txt cannot be read: it holds control characters" in refused.err
    assert not list(tmp_path.glob("*.partial.jsonl"))
    with StubServer(answer) as stub:
        assert client("--image", "data", server=stub.address).code == 0


def test_a_fifo_that_is_named_by_itself_is_an_error_of_that_image(
    client: Client, data: Path, tmp_path: Path
):
    os.mkfifo(tmp_path / "f.jpg")
    with StubServer(answer) as stub:
        run = client("--image", "f.jpg", "data/0_real/1.jfif", server=stub.address)
    assert run.code == 1
    assert "error: f.jpg: cannot be read: it is a FIFO and no regular file" in run.err
    assert "1.jfif: Prediction: REAL" in run.out


@pytest.mark.parametrize(
    "outputs",
    [
        ("--json", RESULTS),
        ("--output", "a", "--csv", "./a"),
        ("--output", "a", "--report", "link"),
        ("--csv", "a.csv", "--json", "a.totals.csv"),
        ("--json", f"{RESULTS}.partial.jsonl"),
        ("--labels", "l.csv", "--csv", "l.csv"),
        ("--output", "data/0_real/1.jfif"),
        ("--output", "data/0_real/2.gif", "--image", "data"),
    ],
)
def test_one_file_for_two_things_is_refused_before_anything_is_asked(
    client: Client, data: Path, tmp_path: Path, outputs: tuple[str, ...]
):
    (tmp_path / "link").symlink_to("a")
    (tmp_path / "l.csv").write_text("path,label\n")
    before = sorted(tmp_path.iterdir())
    with StubServer(answer) as stub:
        run = client("--image", "data/0_real/1.jfif", *outputs, server=stub.address)
        assert not stub.requests
    assert run.code == 2
    assert "are one file" in run.err
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("threshold", [0.25, 0.0, None])
def test_every_output_says_above_what_an_image_is_called_fake(
    client: Client, data: Path, tmp_path: Path, threshold: float | None
):
    def judge(image: bytes) -> Reply:
        said = verdict(0.75)
        detector = dict(said["detector"])  # type: ignore[call-overload]
        del detector["threshold"]
        if threshold is not None:
            detector["threshold"] = threshold
        return json_reply(said | {"detector": detector})

    with StubServer(lambda request: answer_each(request, judge)) as stub:
        run = client(
            *("--image", "data", "--json", "o.json", "--report", "o.html"), server=stub.address
        )
    assert run.code == 0
    told = "not known" if threshold is None else f"{threshold:g}"
    assert f"<dt>FAKE above</dt><dd>{told}</dd>" in (tmp_path / "o.html").read_text()
    lines = (tmp_path / RESULTS).read_text().splitlines()
    assert (f"FAKE above: {told}" in lines) == (threshold is not None)
    run_part = json.loads((tmp_path / "o.json").read_text())["run"]
    assert run_part["threshold"] == threshold
    assert "threshold" not in run_part["detector"]


def test_a_fifo_has_no_journal_to_resume_from(client: Client, data: Path, tmp_path: Path):
    os.mkfifo(tmp_path / "fifo")
    run = client("--image", "data", "--output", "fifo", "--resume")
    assert run.code == 17
    assert "--resume: fifo is no regular file and has no journal" in run.err


def test_results_go_into_a_fifo_through_a_link_and_keep_the_mode(
    client: Client, data: Path, tmp_path: Path
):
    os.mkfifo(tmp_path / "fifo")
    for name in ("kept.json", "target.csv"):
        (tmp_path / name).write_text("old")
        (tmp_path / name).chmod(0o600)
    (tmp_path / "link.csv").symlink_to("target.csv")
    found: list[str] = []
    reader = threading.Thread(target=lambda: found.append((tmp_path / "fifo").read_text()))
    reader.start()
    with StubServer(answer) as stub:
        run = client(
            *("--image", "data", "--output", "fifo", "--json", "kept.json", "--csv", "link.csv"),
            server=stub.address,
        )
    reader.join(10)
    assert run.code == 0
    assert found[0].startswith("Deepfake Detection Results (HuggingFace Model)\n")
    assert "Total images processed: 3\n" in found[0]
    assert stat.S_ISFIFO((tmp_path / "fifo").lstat().st_mode)
    assert stat.S_IMODE((tmp_path / "kept.json").stat().st_mode) == 0o600
    assert (tmp_path / "link.csv").is_symlink()
    assert (tmp_path / "target.csv").read_text().startswith("index,path,label")
    assert not list(tmp_path.glob("*.partial*"))
