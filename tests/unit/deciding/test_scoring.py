"""calibrate.py against a stand-in for the server: scores, whose they are, what stops it."""

import json
from pathlib import Path

import calibrate
import pytest
from deepfake_tools.errors import TokenError

from tests.unit.torchserve_stub import (
    REFUSED,
    SERVED,
    Reply,
    Request,
    StubServer,
    answer_each,
    description,
    detector_error,
    json_reply,
    torchserve_error,
    verdict,
)

FINGERPRINT = "ab" * 32


class Served:
    """Says of an image what stands in it, and what the model is."""

    def __init__(self, said: dict[str, object], *, margins: bool = True) -> None:
        self.said, self.margins = said, margins

    def __call__(self, request: Request) -> Reply:
        if "customized=true" in request.path:
            assert request.path.startswith(f"/models/{SERVED}/1")
            return json_reply(
                [description(SERVED, "1", "READY") | {"customizedMetadata": self.said}]
            )
        if request.path.startswith("/models"):
            return json_reply([description(SERVED, "1", "READY")])
        return answer_each(request, self.judge)

    def judge(self, data: bytes) -> Reply:
        if data == b"broken":
            return detector_error(400, "not_an_image", "these bytes are no image")
        return json_reply(verdict() | ({"margin": float(data)} if self.margins else {}))


def run(folder: Path, stub: StubServer, *words: str) -> int:
    key = folder / "key_file.json"
    tokens = {kind: {"key": f"{kind}-token"} for kind in ("inference", "management")}
    key.write_text(json.dumps(tokens))
    key.chmod(0o600)
    place = ["--server", stub.address, "--management", stub.address, "--key-file", str(key)]
    made = ["--reals", str(folder / "reals"), "--output", str(folder / "decision.json")]
    return calibrate.main(["--model", SERVED, *made, *place, "--false-alarms", "0.1", *words])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "reals").mkdir()
    for number in range(40):
        (tmp_path / "reals" / f"IMG_{number}.jpg").write_text(str(number))
    (tmp_path / "reals" / "IMG_99.jpg").write_text("broken")
    return tmp_path


def test_served_margins_and_the_fingerprint_make_a_decision(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with StubServer(Served({"pid": 7, "fingerprint": FINGERPRINT})) as stub:
        assert run(folder, stub) == 0
    said = capsys.readouterr().out
    assert "left out: not_an_image 1" in said
    decision = json.loads((folder / "decision.json").read_text())
    assert decision["detector"] == FINGERPRINT
    assert decision["reals"]["images"] == 40
    assert decision["margins"] == list(range(40))
    # The 37th smallest: ceil(41 * 0.9).
    assert decision["fake_above"] == 36


@pytest.mark.parametrize(
    "served", [Served({"pid": 7}), Served({"fingerprint": FINGERPRINT}, margins=False)]
)
def test_an_archive_of_before_is_to_be_built_again(
    folder: Path, served: Served, capsys: pytest.CaptureFixture[str]
) -> None:
    with StubServer(served) as stub:
        assert run(folder, stub) == 1
    assert "an earlier version" in capsys.readouterr().err
    assert not (folder / "decision.json").exists()


def test_what_ends_a_run_of_the_client_ends_this(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refusal = torchserve_error(400, "InvalidKeyException", REFUSED)
    with StubServer(lambda request: refusal) as stub:
        assert run(folder, stub) == TokenError.exit_code
    assert "token" in capsys.readouterr().err
    assert not (folder / "decision.json").exists()
