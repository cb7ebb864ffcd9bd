"""Measures how faithful explanations are, on manipulations whose place is known.

Trains detectors as `make demo` does, manipulates crops that they were not trained on, and compares
each way to explain a FAKE with a random map, with one that always says the middle, and with LeGrad,
which takes a backward pass (Bousselham et al., arXiv 2404.03214). Prints a table in Markdown.
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from clip_deepfake.card import Card, Limits, read_card
from clip_deepfake.detector import Detector
from clip_deepfake.engines import Pixels, run_pass
from clip_deepfake.explaining import Breakdown, Case, Explainer, Wish, block_edges, patch_size
from clip_deepfake.images import RGB, decode
from clip_deepfake.loading import load_detector
from clip_deepfake.verdicts import Judgement, Method, Verdict, form_judgement
from deepfake_tools.cli import CommandParser, at_least, say
from deepfake_tools.demonstration.blending import manipulate_in, soft_oval
from deepfake_tools.demonstration.crops import SIDE, TRAINED_ON, write_training_crops
from deepfake_tools.demonstration.random_clip import clip_config, tower_shape, write_clip

from benchmarks import PHOTOGRAPHS, SCRIPTS
from benchmarks.archives import unpack
from benchmarks.legrad import LeGrad
from benchmarks.measurements import BenchmarkError

Map = npt.NDArray[np.float64]

STEPS = 7
"""In which a picture is painted over, or uncovered."""

MOST_TRIES = 4
"""Crops that are looked at for each that is called fake."""

PLACES: Mapping[str, tuple[tuple[float, float], tuple[float, float]]] = {
    "as trained": ((0.42, 0.58), (0.6, 0.8)),
    "small, anywhere": ((0.25, 0.75), (0.3, 0.45)),
}
"""Of the manipulated part: of its centre and its axes, in sides."""


@dataclass(frozen=True)
class TrainedDetector:
    """A detector to be asked.

    Attributes:
        name: in words.
        folder: holds its archive, unpacked.
    """

    name: str
    folder: Path


@dataclass(frozen=True)
class Scene:
    """A manipulated picture that a detector calls fake.

    Attributes:
        pixels: uint8 (side, side, 3).
        mask: how much of each pixel is manipulated, (side, side).
        verdict: on it.
    """

    pixels: Pixels
    mask: Map
    verdict: Verdict


@dataclass(frozen=True)
class Score:
    """How a map does.

    Attributes:
        inside: share of its positive contributions inside the manipulated part.
        points: whether its largest contribution lies there.
        deletion: mean of ``fake_probability`` while what it names first is painted over first.
        insertion: while it is uncovered first.
    """

    inside: float
    points: bool
    deletion: float
    insertion: float


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = CommandParser(prog="python -m benchmarks.explanations", description=__doc__)
    parser.add_argument(
        "--pictures",
        type=at_least(1),
        default=20,
        help="how many pictures of each kind (default: %(default)s)",
    )
    return parser.parse_args(arguments)


def main() -> int:
    """Prints the table and returns the exit code."""
    arguments = parse_arguments()
    print("| detector, manipulated part | map | inside | points | deletion | insertion |")
    print("| --- | --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory(prefix="explanations-") as scratch:
        for subject in make_subjects(Path(scratch)):
            for place in PLACES:
                for row in measure(subject, place, arguments.pictures):
                    print(row, flush=True)
    return 0


def make_subjects(folder: Path) -> list[TrainedDetector]:
    """Trains heads on two encoders with random weights, and one of these with its head."""
    write_training_crops(PHOTOGRAPHS, folder / "training", each=12)
    subjects = []
    for patch in (32, 16):
        tower = tower_shape(256, layers=4, heads=4, image_size=224, patch_size=patch)
        text = tower_shape(64, layers=1, heads=1, vocab_size=16)
        model = folder / f"clip-{patch}"
        write_clip(model, clip_config(tower, text, projection=128))
        head = folder / f"head-{patch}.safetensors"
        _train(folder, model, head)
        name = f"head, patches of {patch}"
        subjects.append(
            TrainedDetector(name, _build(folder / name, "--model", model, "--weights", head))
        )
    tuned = folder / "tuned"
    recipe = ("--method", "full", "--epochs", "3", "--learning-rate", "3e-4", "--no-augmentation")
    _train(folder, folder / "clip-32", tuned, *recipe)
    name = "whole encoder, patches of 32"
    return [*subjects, TrainedDetector(name, _build(folder / name, "--weights", tuned))]


def _train(folder: Path, model: Path, output: Path, *more: str) -> None:
    say(f"training {output.name}")
    _run("train.py", folder, "--model", model, "--data", "training", "--output", output, *more)


def _build(folder: Path, *words: object) -> Path:
    folder.mkdir()
    _run("build_mar.py", folder, *words, "--export-path", "store")
    (archive,) = (folder / "store").glob("*.mar")
    return unpack([archive], folder)[0].folder


def _run(script: str, folder: Path, *words: object) -> None:
    command = [sys.executable, str(SCRIPTS / script), *map(str, words)]
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)


def measure(subject: TrainedDetector, place: str, pictures: int) -> list[str]:
    """Measures every map of one kind of manipulation, and returns the table's rows."""
    detector, card = load_detector(subject.folder), read_card(subject.folder)
    rng = np.random.default_rng(0)
    scenes = make_scenes(detector, card, place, pictures, rng)
    share = float(np.mean([scene.mask.mean() for scene in scenes]))
    edges = block_edges(card.encoder.image_size, patch_size(card.encoder))
    rows = [f"| **{subject.name}, {place}**: {len(scenes)} pictures | area | {share:.2f} | | | |"]
    for name, explain in maps_of(detector, card, subject.folder, rng).items():
        scores = [score(explain(scene), scene, detector, card, edges) for scene in scenes]
        columns = [
            _mean([one.inside for one in scores]),
            _mean([one.points for one in scores]),
            _mean([one.deletion for one in scores]),
            _mean([one.insertion for one in scores]),
        ]
        rows.append(f"| | {name} | {' | '.join(columns)} |")
    return rows


def _mean(values: Sequence[float]) -> str:
    """With its standard error."""
    spread = float(np.std(values, ddof=1)) / len(values) ** 0.5 if len(values) > 1 else 0.0
    return f"{np.mean(values):.2f} ± {spread:.2f}"


def make_scenes(
    detector: Detector, card: Card, place: str, pictures: int, rng: np.random.Generator
) -> list[Scene]:
    """Manipulates crops of the right of each photograph, until enough are called fake."""
    sources = [decode(path.read_bytes(), Limits().max_pixels) for path in PHOTOGRAPHS]
    scenes: list[Scene] = []
    for number in range(MOST_TRIES * pictures):
        mask = soft_oval(SIDE, rng, *PLACES[place])
        crop = manipulate_in(_crop(sources[number % len(sources)], rng), mask)
        pixels = card.preprocessing.apply(crop)
        (verdict,) = judge(detector, card, [pixels])
        if verdict.label == "FAKE":
            side = pixels.shape[0]
            wide = cv2.resize(mask, (side, side), interpolation=cv2.INTER_LINEAR)
            scenes.append(Scene(pixels, wide.astype(np.float64), verdict))
        if len(scenes) == pictures:
            break
    return scenes


def _crop(image: RGB, rng: np.random.Generator) -> RGB:
    right = image[:, int(image.shape[1] * TRAINED_ON) :]
    left, top = (rng.integers(length - SIDE + 1) for length in right.shape[1::-1])
    return right[top : top + SIDE, left : left + SIDE]


def judge(detector: Detector, card: Card, pixels: Sequence[Pixels]) -> list[Verdict]:
    """Judges prepared pictures."""
    size = detector.engine.largest_pass
    passes = (pixels[start : start + size] for start in range(0, len(pixels), size))
    logits = np.concatenate([run_pass(detector.engine, np.stack(some)) for some in passes])
    found = [form_judgement(row, card.head) for row in logits]
    return [Verdict(**vars(one)) for one in found if isinstance(one, Judgement)]


def maps_of(
    detector: Detector, card: Card, folder: Path, rng: np.random.Generator
) -> Mapping[str, Callable[[Scene], Map]]:
    """The ways to explain, by name."""
    explainer, legrad = Explainer(detector.engine, card.head, card.encoder), LeGrad(folder)
    rows = card.encoder.image_size // patch_size(card.encoder)

    def by(method: Method) -> Callable[[Scene], Map]:
        def explain(scene: Scene) -> Map:
            (parts,) = explainer.explain([Case(Wish(method), scene.pixels, scene.verdict)])
            if not isinstance(parts, Breakdown):
                raise BenchmarkError(f"{method}: {parts}")
            return np.array(parts.grid)

        return explain

    distance = np.abs(np.arange(rows) - (rows - 1) / 2) / rows
    middle = np.exp(-8 * (distance[:, None] ** 2 + distance[None] ** 2))
    return {
        "decomposition": by("decomposition"),
        "occlusion": by("occlusion"),
        "LeGrad (reference)": lambda scene: legrad(scene.pixels),
        "the middle (control)": lambda _: middle,
        "random (control)": lambda _: rng.normal(size=(rows, rows)),
    }


def score(grid: Map, scene: Scene, detector: Detector, card: Card, edges: Sequence[int]) -> Score:
    """Compares a map with the manipulated part, and with what the detector makes of less."""
    side = scene.mask.shape[0]
    # By the pixel, so that maps of any number of cells are compared alike.
    spread = cv2.resize(grid, (side, side), interpolation=cv2.INTER_NEAREST)
    positive = np.maximum(spread, 0)
    inside = float((positive * scene.mask).sum() / positive.sum()) if positive.any() else 0.0
    row, column = np.unravel_index(grid.argmax(), grid.shape)
    centre = [int((index + 0.5) * side / len(grid)) for index in (row, column)]
    spans = list(pairwise(edges))
    blocks = [(slice(*down), slice(*across)) for down in spans for across in spans]
    order = sorted(range(len(blocks)), key=lambda index: -spread[blocks[index]].mean())
    bare = np.empty_like(scene.pixels)
    bare[:] = np.rint(scene.pixels.mean(axis=(0, 1)))
    pictures = []
    for step in range(STEPS + 1):
        named = order[: round(step * len(order) / STEPS)]
        for start, other in ((scene.pixels, bare), (bare, scene.pixels)):
            picture = start.copy()
            for index in named:
                picture[blocks[index]] = other[blocks[index]]
            pictures.append(picture)
    chances = [verdict.fake_probability for verdict in judge(detector, card, pictures)]
    curves = [float(np.trapezoid(chances[kind::2]) / STEPS) for kind in (0, 1)]
    return Score(inside, bool(scene.mask[tuple(centre)] > 0.5), *curves)


if __name__ == "__main__":
    sys.exit(main())
