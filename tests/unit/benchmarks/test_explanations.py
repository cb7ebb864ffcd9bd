"""The measure of faithfulness, on an engine whose truth is known: its margin is the mean red."""

from pathlib import Path

import msgspec
import numpy as np
import pytest
from clip_deepfake.card import Card, read_card
from clip_deepfake.explaining import block_edges
from deepfake_tools.demonstration.blending import manipulate, soft_oval

from benchmarks.explanations import PLACES, Scene, judge, make_scenes, score
from benchmarks.legrad import LeGrad
from tests.building import Builder, unpack
from tests.unit.stand_in_engine import StandInEngine, detector_of


@pytest.fixture
def scene(small_card: Card) -> Scene:
    """Black, but for a red block in the second row and the third column of eight."""
    pixels = np.zeros((48, 48, 3), np.uint8)
    pixels[6:12, 12:18, 0] = 255
    mask = np.zeros((48, 48))
    mask[6:12, 12:18] = 1
    detector = detector_of(small_card, StandInEngine())
    (verdict,) = judge(detector, small_card, [pixels])
    assert verdict.margin == pytest.approx(1 / 64)
    return Scene(pixels, mask, verdict)


def test_a_map_that_is_right_beats_one_that_is_wrong(small_card: Card, scene: Scene) -> None:
    detector, edges = detector_of(small_card, StandInEngine()), block_edges(48, 1)
    right = np.zeros((8, 8))
    right[1, 2] = 1
    found = score(right, scene, detector, small_card, edges)
    assert (found.inside, found.points) == (1.0, True)
    wrong = score(-right, scene, detector, small_card, edges)
    assert (wrong.inside, wrong.points) == (0.0, False)
    even = score(np.ones((8, 8)), scene, detector, small_card, edges)
    assert even.inside == pytest.approx(1 / 64)
    assert found.deletion < wrong.deletion
    assert found.insertion > wrong.insertion


def test_scenes_are_called_fake_and_their_place_is_known(small_card: Card) -> None:
    detector = detector_of(small_card, StandInEngine())
    scenes = make_scenes(detector, small_card, "small, anywhere", 4, np.random.default_rng(0))
    assert len(scenes) == 4
    for scene in scenes:
        assert scene.verdict.label == "FAKE"
        assert scene.mask.shape == scene.pixels.shape[:2] == (48, 48)
        low, high = (np.pi / 4 * size**2 for size in PLACES["small, anywhere"][1])
        assert 0.9 * low < scene.mask.mean() < 1.1 * high
    # Whoever remembers nothing is given the same again.
    rng = np.random.default_rng(5)
    mask = soft_oval(64, rng)
    assert 0.25 < mask.mean() < 0.55
    grey = np.full((64, 64, 3), 128, np.uint8)
    changed = (manipulate(grey, np.random.default_rng(5)) != grey).any(axis=2)
    assert (changed <= (mask[..., 0] > 0)).all()


def test_a_threshold_that_nothing_passes_leaves_no_scene(small_card: Card) -> None:
    head = msgspec.structs.replace(small_card.head, threshold=1.0)
    card = msgspec.structs.replace(small_card, head=head)
    detector = detector_of(card, StandInEngine())
    assert make_scenes(detector, card, "as trained", 2, np.random.default_rng(0)) == []


def test_legrad_maps_every_patch(small_clip: Path, tmp_path: Path) -> None:
    folder = unpack(Builder(tmp_path)("--model", small_clip), tmp_path / "archive")
    legrad = LeGrad(folder)
    side = read_card(folder).encoder.image_size
    pixels = np.random.default_rng(1).integers(0, 256, (side, side, 3)).astype(np.uint8)
    found = legrad(pixels)
    assert (found >= 0).all()
    assert found.max() > 0
    assert found.shape[0] == found.shape[1] > 1
