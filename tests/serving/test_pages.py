"""Every command of every page, pasted as it stands into a fresh copy of the project.

What a page presupposes is typed first, by the commands of the page that has them; what its reader
has, such as photographs and a published detector, lies in the folder. Names of the Hub are those
of a stand-in, with small models under them.
"""

import re
import shutil
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests import ROOT
from tests.hub_server import HubServer
from tests.pages import PAGES, SHOWN, TYPED, Typed, Workplace, blocks, commands, without_comment
from tests.published import effort, gend, linear, save
from tests.tinted import write_images
from tests.vision_models import CLASSIFIERS, write_model

# On two idle cores all pages together take three minutes.
pytestmark = [pytest.mark.serving, pytest.mark.timeout(900)]

MODEL = "openai/clip-vit-base-patch32"
PORTS = (8080, 8081, 8082, 8083, 7070, 7071)
LIMIT_S = 800

NOT_RUN = {
    'make demo PIP_ARGS="--extra-index-url https://download.pytorch.org/whl/cpu"': "installs",
    "make .venv/.development-installed": "installs",
    "pip install -c constraints.txt -e '.[evaluate]'": "installs",
    "pip install -c constraints.txt -e '.[int8]'": "installs",
    "pip install -c constraints.txt -e '.[videos,evaluate]'": "installs",
    "pip install -c constraints.txt -e '.[tune]'": "installs",
    "pip install -c constraints.txt -e '.[score,evaluate]'": "installs",
    "python scripts/score.py --archive model_store/mine@1.mar --input s3://bucket/images --output "
    "s3://bucket/scores --address 10.0.0.1:6379": "names a cluster and a store of the reader's; "
    "tests/unit/bulk has one of each",
    "make page": "stays until it is stopped; test_page.py shows it",
    "python scripts/page.py --listen 0.0.0.0:7860 --auth-file accounts": "stays until it is "
    "stopped; test_page.py shows it",
    "make audit": "asks a database in the internet",
    "make drills": "takes a quarter of an hour",
    'make drills ARGS="--short"': "test_drills.py runs the drills",
    "make benchmark": "takes minutes; test_benchmark.py has it",
    'make benchmark ARGS="--archive model_store/a@1.mar model_store/b@1.mar --images faces '
    '--profile"': "takes minutes; test_benchmark.py has it",
    "python -m benchmarks.costs benchmark.json": "reads what make benchmark writes; "
    "test_costs.py has it",
    "make equality": "takes 20 minutes",
    "make unit": "runs the tests, and this is one",
    "make test": "runs the tests, and this is one",
    "make lint": "says of this copy what it says of the project",
    ".venv/bin/python -m pytest tests/serving/test_detector.py -k int8": "is a test by itself",
    "python scripts/client.py --server https://detector.example:8443 --ca server.pem "
    "--image photo.jpg": "names a machine of the reader's; test_watch.py asks over TLS",
    **dict.fromkeys(
        (
            "kubectl apply -k deploy/kubernetes/common",
            "kubectl apply -f deploy/kubernetes/loader.yaml",
            "kubectl -n clip-deepfake wait --for=condition=Ready pod/clip-deepfake-loader",
            "kubectl -n clip-deepfake exec clip-deepfake-loader -- mkdir -p /archives/1",
            "kubectl -n clip-deepfake cp model_store/openai--clip-vit-base-patch32@1.mar "
            "clip-deepfake-loader:/archives/1/",
            "kubectl -n clip-deepfake delete pod clip-deepfake-loader",
            "kubectl apply -k deploy",
        ),
        "changes a cluster, and there is none; test_pod.py runs the pod",
    ),
}
"""Commands that no test runs in a copy, as they stand but for a comment, and why."""

START = "torchserve --start --ts-config config.properties > /dev/null"
READY = "python scripts/manage.py ready --wait 120"
SERVING = (START, READY)
SECOND_VERSION = f"python scripts/build_mar.py --model {MODEL} --precision bfloat16"
TRAINING = f"python scripts/train.py --model {MODEL} --data faces --output head.safetensors"


@dataclass(frozen=True)
class Presupposed:
    """What a page takes for granted.

    Attributes:
        is_packaged: Whether the default model is in the store.
        typed: Commands of other pages that have been typed.
    """

    is_packaged: bool = False
    typed: tuple[str, ...] = ()


PRESUPPOSED = {
    "docs/packaging.md": Presupposed(typed=(TRAINING,)),
    "docs/asking.md": Presupposed(True, SERVING),
    "docs/training.md": Presupposed(True, SERVING),
    "docs/videos.md": Presupposed(True, SERVING),
    "docs/explaining.md": Presupposed(True, SERVING),
    "docs/evaluating.md": Presupposed(True, SERVING),
    "docs/scoring.md": Presupposed(True),
    "docs/calibrating.md": Presupposed(True, SERVING),
    "docs/faces.md": Presupposed(True, SERVING),
    "docs/runbook.md": Presupposed(True, (*SERVING, SECOND_VERSION)),
}

SAYS = {
    "make demo": (
        "20 of 20 verdicts on crops that the head was not trained on are right, AUC 1.0000",
        "stand-in",
        "self-blended images",
        "It is no deepfake detector",
    ),
    f"make demo MODEL={MODEL} IMAGE=examples/astronaut.jpg": ("Prediction: ", "NOT TRAINED"),
    READY: ("ready: openai--clip-vit-base-patch32 version 1",),
    "python scripts/client.py --image examples/astronaut.jpg": ("Prediction: ", "untrained"),
    "python scripts/client.py --image videos/fake/fake_0.mp4": (
        "Prediction: ",
        "Frames: 12 judged, none left out",
    ),
    "python scripts/evaluate.py results.json --compare results-2.json --table results.tex": (
        "results-2.json against results.json",
        "DeLong's test p",
    ),
    "python scripts/manage.py list": ("openai--clip-vit-base-patch32",),
}
"""Words without which a command has not done what its page says, whatever it ended with."""


DEMO_VERDICT = re.compile(r"^(\S+): Prediction: (REAL|FAKE) \(confidence: [01]\.\d{4}\)$", re.M)


def check_demo(typed: list[Typed], temporary: Path) -> None:
    """Makes sure that the demo judged every crop rightly, and that nothing is left of it."""
    (said,) = (one.said for one in typed if without_comment(one.text) == "make demo")
    verdicts = DEMO_VERDICT.findall(said)
    assert len(verdicts) == 20
    for name, label in verdicts:
        assert label == ("FAKE" if name.endswith("-manipulated.png") else "REAL")
    assert "untrained" not in said
    assert not list(temporary.glob("demo-*"))


@pytest.fixture(scope="module")
def page_hub(tmp_path_factory: pytest.TempPathFactory, small_clip: Path) -> Iterator[HubServer]:
    """The names that the pages mention, with small models of the same kinds under them."""
    folder = tmp_path_factory.mktemp("page-hub")
    classifiers = {
        "dima806/deepfake_vs_real_image_detection": ("vit", {0: "Real", 1: "Fake"}),
        "prithivMLmods/Deep-Fake-Detector-v2-Model": ("vit", {0: "Realism", 1: "Deepfake"}),
        "prithivMLmods/deepfake-detector-model-v1": ("siglip", {0: "Fake", 1: "Real"}),
    }
    with HubServer() as server:
        server.add(MODEL, small_clip)
        server.add("openai/clip-vit-large-patch14", small_clip)
        server.add("yermandy/GenD_CLIP_L_14", gend(folder / "gend", "linear").weights)
        for name, (kind, labels) in classifiers.items():
            write_model(folder / name, CLASSIFIERS[kind], labels=labels)
            server.add(name, folder / name)
        yield server


@pytest.fixture(scope="module")
def environment(page_hub: HubServer, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Variables of a reader whose Hub that is."""
    home = tmp_path_factory.mktemp("page-home")
    return {"HF_ENDPOINT": page_hub.url, "HF_HOME": str(home)}


@pytest.fixture(scope="module")
def belongings(tmp_path_factory: pytest.TempPathFactory, landmarks: Path) -> Path:
    """What readers have of their own: photographs, published detectors, a landmark predictor."""
    folder = tmp_path_factory.mktemp("belongings")
    write_images(folder / "faces")
    write_videos(folder / "videos")
    write_shards(folder)
    for name in ("data", "validation"):
        write_images(folder / name, folders=1)
    save(folder, "fc_weights.pth", linear(40, 1).state_dict())
    effort(folder / "effort").weights.rename(folder / "effort.pth")
    shutil.copy(landmarks, folder / "shape_predictor_81_face_landmarks.dat")
    for name in ("portrait.jpg", "photo.jpg"):
        shutil.copy(ROOT / "examples" / "astronaut.jpg", folder / name)
    return folder


def write_shards(folder: Path) -> None:
    """The images of the folder `faces` as Parquet, two files of them."""
    paths = sorted((folder / "faces").rglob("*.png"))
    (folder / "shards").mkdir()
    for number in range(2):
        some = paths[number::2]
        columns = {
            "image": [path.read_bytes() for path in some],
            "label": [path.parent.parent.name for path in some],
        }
        pq.write_table(pa.table(columns), folder / "shards" / f"{number}.parquet")


def write_videos(folder: Path) -> None:
    """Four videos of each class, the fake ones bluer."""
    rng = np.random.default_rng(0)
    for label, tint in (("real", 0), ("fake", 40)):
        (folder / label).mkdir(parents=True)
        for number in range(4):
            path = folder / label / f"{label}_{number}.mp4"
            writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 10, (64, 48))
            for _ in range(12):
                frame = rng.integers(0, 200, (6, 8, 3)).astype(np.uint8) + np.uint8([tint, 0, 0])
                writer.write(cv2.resize(frame, (64, 48)))
            writer.release()


@pytest.fixture(scope="module")
def packaged(tmp_path_factory: pytest.TempPathFactory, environment: dict[str, str]) -> Path:
    """The default model's archive, built once."""
    copy = Workplace(tmp_path_factory.mktemp("packaged") / "project", environment)
    (built,) = copy.type([f"python scripts/build_mar.py --model {MODEL}"], LIMIT_S)
    copy.close()
    assert built.status == 0, built.said
    (archive,) = (copy.folder / "model_store").glob("*.mar")
    return archive


@pytest.fixture
def workplace(tmp_path: Path, environment: dict[str, str], belongings: Path) -> Iterator[Workplace]:
    for port in PORTS:
        with socket.socket() as one:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                one.bind(("127.0.0.1", port))
            except OSError:
                pytest.fail(f"port {port} is taken: stop the server there, the pages use it")
    copy = Workplace(tmp_path / "project", environment)
    shutil.copytree(belongings, copy.folder, dirs_exist_ok=True)
    yield copy
    copy.close()


@pytest.mark.parametrize("page", [page for page in PAGES if commands(page)])
def test_what_a_page_says_to_type_works_when_it_is_pasted(
    page: str, workplace: Workplace, request: pytest.FixtureRequest
) -> None:
    own = [text for text in commands(page) if without_comment(text) not in NOT_RUN]
    before = PRESUPPOSED.get(page, Presupposed())
    if before.is_packaged:
        shutil.copy(request.getfixturevalue("packaged"), workplace.folder / "model_store")

    texts = [*before.typed, *own]
    typed = workplace.type(texts, LIMIT_S)

    for one in typed:
        assert one.status == 0, f"{one.text}\nended with {one.status}:\n{one.said}"
        for words in SAYS.get(without_comment(one.text), ()):
            assert words in one.said, one.said
    assert len(typed) == len(texts)
    if page == "README.md":
        check_demo(typed, workplace.temporary)


def test_what_is_not_run_or_presupposed_is_on_a_page() -> None:
    on_pages = {without_comment(text) for page in PAGES for text in commands(page)}
    presupposed = {text for before in PRESUPPOSED.values() for text in before.typed}
    assert {*NOT_RUN, *presupposed, *SAYS} - on_pages == set()
    assert PRESUPPOSED.keys() <= set(PAGES)


@pytest.mark.parametrize("page", PAGES)
def test_no_block_is_in_a_language_that_is_not_tried(page: str) -> None:
    assert {language for language, _ in blocks(page)} <= {*TYPED, *SHOWN}
