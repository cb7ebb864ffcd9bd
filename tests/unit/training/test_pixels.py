"""What a step is fed with: balanced draws, pairs, and augmentation that a seed decides."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from deepfake_tools.training.augmentation import augment
from deepfake_tools.training.dataset import LabelledImage
from deepfake_tools.training.pixels import BalancedPairs
from deepfake_tools.training.recipes import EFFORT_AUGMENTATION, Augmentation
from msgspec.structs import replace


def images(*names: str) -> list[LabelledImage]:
    return [LabelledImage(Path(name), 1 if "fake" in name else 0) for name in names]


def test_an_epoch_shows_the_larger_class_once_and_halves_every_batch() -> None:
    known = images(*(f"real/a/{n}.png" for n in range(5)), *(f"fake/b/x{n}.png" for n in range(12)))
    sampler = BalancedPairs(known, 8, seed=3)
    rows = [row for row, _ in sampler]
    assert len(rows) == len(sampler) == 24
    assert [known[row].label for row in rows] == [0, 1] * 12
    assert sorted(rows[1::2]) == list(range(5, 17))
    counts = np.bincount(rows[::2])
    assert counts.min() >= 2
    assert counts.max() <= 3


def test_a_rest_that_fills_no_batch_is_left_for_another_epoch() -> None:
    known = images(*(f"real/{n}.png" for n in range(5)), *(f"fake/x{n}.png" for n in range(5)))
    sampler = BalancedPairs(known, 4, seed=0)
    assert len(list(sampler)) == len(sampler) == 8
    seen = set()
    for epoch in range(6):
        sampler.set_epoch(epoch)
        seen |= {row for row, _ in sampler}
    assert seen == set(range(10))


@pytest.mark.parametrize(
    "names",
    [
        ("real/clip/1.png", "real/clip/2.png", "fake/clip/1.png", "fake/clip/2.png"),
        ("real/012/7.png", "real/345/7.png", "fake/012_345/7.png", "fake/345_012/7.png"),
    ],
)
def test_a_fake_is_drawn_with_what_it_was_made_of(names: tuple[str, ...]) -> None:
    sampler = BalancedPairs(images(*names), 2, seed=1)
    assert sampler.matched == 2
    rows = [row for row, _ in sampler]
    assert {(rows[0], rows[1]), (rows[2], rows[3])} == {(0, 2), (1, 3)}


def test_order_and_seeds_depend_on_seed_and_epoch_alone() -> None:
    known = images(*(f"real/{n}.png" for n in range(8)), *(f"fake/x{n}.png" for n in range(8)))
    one, other = BalancedPairs(known, 4, seed=5), BalancedPairs(known, 4, seed=5)
    other.set_epoch(1)
    second = list(other)
    assert second != list(one)
    one.set_epoch(1)
    assert list(one) == second
    assert list(BalancedPairs(known, 4, seed=6)) != list(BalancedPairs(known, 4, seed=5))


@pytest.fixture
def image() -> np.ndarray:
    rng = np.random.default_rng(0)
    return cv2.resize(rng.integers(0, 256, (12, 16, 3), np.uint8), (80, 60))


ALWAYS = {"chance": 1.0}


def test_augmentation_is_decided_by_its_seed(image: np.ndarray) -> None:
    results = [augment(image, EFFORT_AUGMENTATION, seed) for seed in range(20)]
    again = [augment(image, EFFORT_AUGMENTATION, seed) for seed in range(20)]
    assert all(np.array_equal(a, b) for a, b in zip(results, again, strict=True))
    assert len({r.tobytes() for r in results}) > 15
    assert all(r.shape == image.shape and r.dtype == np.uint8 for r in results)
    assert np.array_equal(augment(image, Augmentation(), 7), image)


def test_each_kind_does_what_it_says(image: np.ndarray) -> None:
    assert np.array_equal(augment(image, Augmentation(flip=1.0), 0), image[:, ::-1])
    turned = augment(image, Augmentation(rotate=10.0, **ALWAYS), 0)
    assert not np.array_equal(turned, image)
    # The middle stays where it is, the corners move.
    smooth = cv2.GaussianBlur(image, (0, 0), 4)
    turned = augment(smooth, Augmentation(rotate=10.0, **ALWAYS), 0).astype(int)
    assert abs(turned[28:32, 38:42] - smooth[28:32, 38:42]).max() < 12
    blurred = augment(image, Augmentation(blur=(2.0, 2.0), **ALWAYS), 0)
    assert np.array_equal(blurred, cv2.GaussianBlur(image, (0, 0), 2.0))
    jpeg = augment(image, Augmentation(jpeg=(50, 50), **ALWAYS), 0)
    _, encoded = cv2.imencode(".jpg", image[..., ::-1], (cv2.IMWRITE_JPEG_QUALITY, 50))
    assert np.array_equal(jpeg, cv2.imdecode(encoded, cv2.IMREAD_COLOR)[..., ::-1])


def test_tone_changes_no_more_than_it_may() -> None:
    grey = np.full((8, 8, 3), 100, np.uint8)
    settings = Augmentation(brightness=0.1, contrast=0.1, **ALWAYS)
    values = [int(augment(grey, settings, seed)[0, 0, 0]) for seed in range(300)]
    assert min(values) >= 100 * 0.9 - 25.5 - 1
    assert max(values) <= 100 * 1.1 + 25.5 + 1
    assert np.std(values) > 5
    assert (
        min(int(augment(grey, replace(settings, contrast=0.0), s).min()) for s in range(300)) < 80
    )
