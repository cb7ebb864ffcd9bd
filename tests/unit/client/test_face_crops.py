"""client.py --landmark_model: what is sent, what is said, and when it stops."""

import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from deepfake_tools.canary import canary_image
from PIL import Image

from tests.forking import Fork
from tests.portraits import encode, photograph
from tests.reference_alignment import reference_crop
from tests.unit.client_runs import CLIENT, Client
from tests.unit.torchserve_stub import (
    SERVED,
    Reply,
    Request,
    Served,
    StubServer,
    answer_each,
    detector_error,
    images_of,
    json_reply,
    torchserve_error,
    verdict,
)

FULL = torchserve_error(503, "ServiceUnavailableException", "no worker")


@pytest.fixture
def pictures(tmp_path: Path, examples: list[Path]) -> Path:
    """A portrait, a group of two, and a cat."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    portrait = photograph(500, 500, [(21, 100, 100, 280)])
    group = photograph(400, 800, [(0, 30, 60, 250), (42, 400, 40, 320)])
    (folder / "a.png").write_bytes(encode(portrait))
    (folder / "b.jpg").write_bytes(encode(group, ".jpg"))
    (cat,) = [path for path in examples if path.stem == "cat"]
    shutil.copy(cat, folder / "cat.jpg")
    return folder


def rgb(data: bytes) -> np.ndarray:
    return cv2.cvtColor(cv2.imdecode(np.frombuffer(data, np.uint8), 1), cv2.COLOR_BGR2RGB)


def test_the_crop_is_sent_without_loss_and_a_faceless_image_as_it_is(
    client: Client, pictures: Path, landmarks: Path
):
    with StubServer(Served()) as stub:
        options = ("--model", SERVED, "--image", str(pictures), "--landmark_model", str(landmarks))
        run = client(*options, server=stub.address)
    assert run.code == 0, run.err
    assert "1 images had no face: sent whole" in run.err
    sent = [image for request in stub.requests for image in images_of(request)]
    assert (pictures / "cat.jpg").read_bytes() in sent
    crops = [rgb(image) for image in sent if image != (pictures / "cat.jpg").read_bytes()]
    for name in ("a.png", "b.jpg"):
        expected = reference_crop(rgb((pictures / name).read_bytes()), str(landmarks))
        assert any(np.array_equal(crop, expected) for crop in crops)


def test_the_crop_is_cut_as_the_detector_says(client: Client, tmp_path: Path, landmarks: Path):
    """A detector of DeepfakeBench's, and a picture that Pillow would not turn."""
    upright = photograph(500, 500, [(21, 100, 100, 280)])
    exif = Image.Exif()
    exif[0x0112] = 3  # as if it were upside down
    Image.fromarray(upright).save(tmp_path / "photo.png", exif=exif)
    answer = verdict(0.8)
    answer["detector"] |= {"orientation": "pillow", "face_side": 256}  # type: ignore[operator]
    with StubServer(lambda request: answer_each(request, lambda image: json_reply(answer))) as stub:
        options = ("--model", SERVED, "--image", "photo.png", "--landmark_model", str(landmarks))
        run = client(*options, server=stub.address)
    assert run.code == 0, run.err
    first, sent = (image for request in stub.requests for image in images_of(request))
    assert first == canary_image()
    expected = reference_crop(upright, str(landmarks), size=256)
    assert np.array_equal(rgb(sent), expected)


@pytest.fixture
def aligning() -> Callable[[Request], object]:
    """A server whose detector aligns faces itself."""
    answer = verdict(0.8)
    answer["detector"]["faces"] = "largest"  # type: ignore[index]
    return lambda request: answer_each(request, lambda image: json_reply(answer))


def test_it_stops_where_it_would_be_done_twice(
    client: Client, pictures: Path, landmarks: Path, tmp_path: Path, aligning: Callable[..., object]
):
    with StubServer(aligning) as stub:
        run = client(
            "--image", str(pictures), "--landmark-model", str(landmarks), server=stub.address
        )
        assert run.code == 19
        assert "aligns faces itself, and --landmark_model would do it twice" in run.err
        assert run.out == ""
        assert not (tmp_path / "inference_results_huggingface.txt").exists()
        without = client("--image", str(pictures), server=stub.address)
    assert without.code == 0


def test_it_stops_where_the_detector_refuses_images_without_a_face(
    client: Client, pictures: Path, landmarks: Path
):
    refusal = detector_error(422, "no_face", "no face was found")
    with StubServer(lambda request: answer_each(request, lambda image: refusal)) as stub:
        run = client(
            "--image", str(pictures), "--landmark_model", str(landmarks), server=stub.address
        )
        assert run.code == 19
        without = client("--image", str(pictures), server=stub.address)
    assert without.code == 1
    assert "refused as no_face: no face was found" in without.err


def test_a_broken_image_does_not_stop_the_others(client: Client, pictures: Path, landmarks: Path):
    (pictures / "text.jpg").write_text("no image")
    with StubServer(Served()) as stub:
        run = client(
            "--image", str(pictures), "--landmark_model", str(landmarks), server=stub.address
        )
    assert run.code == 1
    assert "3 images" in run.out
    assert "text.jpg" in run.err


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"Dear reader,", "is not a dlib shape predictor"), (None, "cannot be read: No such file")],
)
def test_what_is_no_predictor_is_a_wrong_argument(
    client: Client, pictures: Path, tmp_path: Path, content: bytes | None, reason: str
):
    if content is not None:
        (tmp_path / "wrong.dat").write_bytes(content)
    run = client("--image", str(pictures), "--landmark_model", "wrong.dat")
    assert run.code == 2
    assert f"wrong.dat {reason}" in run.err


WITHOUT_DLIB = f"""
import runpy
from deepfake_tools import extras
found = extras.find_spec
extras.find_spec = lambda name: None if name == "dlib" else found(name)
runpy.run_path({str(CLIENT)!r}, run_name="__main__")
"""


def test_without_dlib_it_says_what_to_install(clients: Fork, pictures: Path, tmp_path: Path):
    options = ("--image", pictures, "--landmark_model", "x.dat")
    run = clients.run("-c", WITHOUT_DLIB, *options, cwd=tmp_path)
    assert run.returncode == 2
    assert "--landmark_model needs dlib-bin: pip install 'clip-deepfake[faces]'" in run.stderr


def test_a_run_is_not_gone_on_with_under_another_alignment(
    client: Client, landmarks: Path, tmp_path: Path
):
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(60):
        (folder / f"{number}.png").write_bytes(encode(np.full((20, 20, 3), number, np.uint8)))
    served = Served()
    answers = []

    def first_two(request: Request) -> Reply:
        # What the client asks about an image of its own, and the first of the folder's.
        answers.append(served(request) if len(answers) < 2 else FULL)
        return answers[-1]

    # Named, so that nobody asks first what is served.
    options = (
        "--model",
        SERVED,
        "--image",
        str(folder),
        "--landmark_model",
        str(landmarks),
        "--concurrency",
        "1",
    )
    with StubServer(first_two) as stub:
        assert client(*options, "--retries", "0", server=stub.address).code == 4
    with StubServer(served) as stub:
        exact = client(*options, "--face-detection", "exact", "--resume", server=stub.address)
        assert exact.code == 17
        assert "had another --perturb or --landmark_model" in exact.err
        assert client(*options, "--resume", server=stub.address).code == 0
