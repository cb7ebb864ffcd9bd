"""Files asked about as the client does, explained, and as JSON, against a stand-in server."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from deepfake_tools.client.diagnosis import ready_models
from deepfake_tools.client.target import Target
from deepfake_tools.errors import ServerUnreachableError
from deepfake_tools.evaluation.outcomes import Outcome
from deepfake_tools.page.inquiry import NO_EXPLANATIONS, Inquiry, ask, explain, to_fields
from deepfake_tools.page.showing import findings_page
from deepfake_tools.torchserve.tokens import Credentials

from tests.unit.client.test_client_videos import LEVELS, write_grey
from tests.unit.page.grey import Grey
from tests.unit.torchserve_stub import SERVED, Served, StubServer

Ask = Callable[..., Inquiry]
TOLD: list[tuple[int, int]] = []


def tell(done: int, places: int) -> None:
    TOLD.append((done, places))


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "keys.json"
    keys = {name: {"key": f"{name}-token"} for name in ("inference", "management")}
    path.write_text(json.dumps(keys))
    path.chmod(0o600)
    return path


@pytest.fixture
def target_of(key_file: Path) -> Callable[[str], Target]:
    def target(address: str) -> Target:
        credentials = Credentials(None, key_file, address)
        return Target(SERVED, None, address, address, credentials, key_file, 10, 0, 4)

    return target


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    cv2.imwrite(str(path), np.full((40, 60, 3), 204, np.uint8))
    return path


@pytest.fixture
def stub() -> Iterator[StubServer]:
    with StubServer(Grey(explains=True)) as server:
        yield server


def test_models_that_take_requests_are_offered(target_of: Callable[[str], Target]):
    with StubServer(Served(others=("gone",))) as stub:
        assert ready_models(target_of(stub.address)) == [SERVED]
    with StubServer(Served(worker="LOADING")) as stub:
        assert ready_models(target_of(stub.address)) == []
    with pytest.raises(ServerUnreachableError):
        ready_models(target_of(stub.address))


def test_images_and_videos_are_asked_about_together(
    target_of: Callable[[str], Target], photo: Path, tmp_path: Path, stub: StubServer
):
    clip = write_grey(tmp_path / "clip.mp4", LEVELS)
    inquiry = ask(target_of(stub.address), [photo, clip], tell, stability=False)
    image, video = inquiry.findings()
    assert isinstance(image, Outcome)
    assert image.fake_probability == pytest.approx(0.8)
    assert not isinstance(video, Outcome)
    verdict, frames = video
    assert len(frames) == 32
    scores = LEVELS.round()[np.linspace(0, 39, 32, dtype=int)] / 255
    # Half a grey level or so is the codec's.
    assert verdict.fake_probability == pytest.approx(scores.mean(), abs=0.004)
    # The clip grows brighter, so its last frame is the most fake one.
    assert inquiry.shown == {str(clip): frames[-1].index}
    assert inquiry.looked_at() == [0, frames[-1].index]
    assert inquiry.files == [photo, clip]
    assert TOLD[-1] == (33, 33)


def test_another_frame_is_looked_at_and_nothing_that_is_no_frame(
    target_of: Callable[[str], Target], photo: Path, tmp_path: Path, stub: StubServer
):
    clip = write_grey(tmp_path / "clip.mp4", LEVELS)
    inquiry = ask(target_of(stub.address), [photo, clip], tell, stability=False)
    for place in (5, 0, -1, 10**6):  # the photograph is no frame, the last two are nothing
        inquiry.look_at(place)
    assert inquiry.shown == {str(clip): 5}
    number = inquiry.images[5].frame.number  # type: ignore[union-attr]
    pixels = cv2.imdecode(np.frombuffer(inquiry.picture(5), np.uint8), cv2.IMREAD_GRAYSCALE)
    assert pixels is not None
    assert pixels.mean() == pytest.approx(LEVELS[number], abs=2)


def test_what_is_looked_at_is_explained_once(
    target_of: Callable[[str], Target], photo: Path, stub: StubServer
):
    inquiry = ask(target_of(stub.address), [photo], tell, stability=False)
    explain(inquiry, tell)
    explain(inquiry, tell)
    asked = [request for request in stub.requests if request.path.startswith("/explanations/")]
    assert [request.body for request in asked] == [photo.read_bytes()]
    assert inquiry.explained[0].margin == 1.25
    assert inquiry.unexplained == {}


def test_an_archive_without_explanations_is_said(
    target_of: Callable[[str], Target], photo: Path, tmp_path: Path
):
    other = tmp_path / "other.png"
    cv2.imwrite(str(other), np.full((8, 8, 3), 7, np.uint8))
    with StubServer(Grey()) as stub:
        inquiry = ask(target_of(stub.address), [photo, other], tell, stability=False)
        explain(inquiry, tell)
        asked = [one for one in stub.requests if one.path.startswith("/explanations/")]
    assert inquiry.unexplained == {0: NO_EXPLANATIONS, 1: NO_EXPLANATIONS}
    assert len(asked) == 1
    assert "explains nothing" in findings_page(inquiry)


def test_a_swap_between_verdict_and_explanation_is_said(
    target_of: Callable[[str], Target], photo: Path, stub: StubServer
):
    inquiry = ask(target_of(stub.address), [photo], tell, stability=False)
    with StubServer(Served(head="other.pth", explains=True)) as swapped:
        inquiry.target = target_of(swapped.address)
        explain(inquiry, tell)
    assert "answers as" in inquiry.unexplained[0]
    assert inquiry.explained == {}


def test_changed_copies_say_how_stable_an_image_is(
    target_of: Callable[[str], Target], photo: Path, stub: StubServer
):
    inquiry = ask(target_of(stub.address), [photo], tell, stability=True)
    (outcome,) = inquiry.outcomes()
    assert outcome.unstable is False
    assert outcome.lowest == pytest.approx(0.8, abs=0.01)
    assert "Stable after small changes" in findings_page(inquiry)


def test_without_a_server_there_is_the_clients_message_and_no_verdict(
    target_of: Callable[[str], Target], photo: Path
):
    inquiry = ask(target_of("http://127.0.0.1:9"), [photo], tell, stability=False)
    assert inquiry.failure is not None
    assert "127.0.0.1:9" in inquiry.failure
    assert list(inquiry.findings()) == []
    assert "127.0.0.1:9" in findings_page(inquiry)


def test_json_names_files_and_no_folders(
    target_of: Callable[[str], Target], photo: Path, tmp_path: Path, stub: StubServer
):
    clip = write_grey(tmp_path / "clip.mp4", LEVELS)
    inquiry = ask(target_of(stub.address), [photo, clip], tell, stability=False)
    explain(inquiry, tell)
    text = json.dumps(to_fields(inquiry))
    assert str(tmp_path) not in text
    found = json.loads(text)
    assert [video["path"] for video in found["videos"]] == ["clip.mp4"]
    assert found["images"][0]["path"] == "photo.png"
    assert found["images"][0]["explanation"]["rest"] == 0.25
    assert found["images"][1]["video"] == "clip.mp4"
    assert found["detector"]["head"] == "head.pth"
