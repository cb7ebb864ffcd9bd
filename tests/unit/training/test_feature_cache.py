import hashlib
from pathlib import Path

import msgspec
import numpy as np
import pytest
from clip_deepfake.preprocessing import squash
from deepfake_tools.training.feature_cache import FeatureCache, FeatureKey

KEY = FeatureKey("a" * 64, squash(32), "pooler_output", {"torch": "2.13.0"})
WIDTH = 5
RECORD = 32 + 4 * WIDTH + 4


def digests(*names: str) -> list[bytes]:
    return [hashlib.sha256(name.encode()).digest() for name in names]


def vectors(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, WIDTH)).astype(np.float32)


def test_features_outlive_the_process(tmp_path: Path) -> None:
    images, features = digests("a", "b", "c"), vectors(3)
    cache = FeatureCache(tmp_path / "cache", KEY, WIDTH)
    assert images[0] not in cache
    cache.add(images[:2], features[:2])
    cache.add(images[2:], features[2:])
    for each in (cache, FeatureCache(tmp_path / "cache", KEY, WIDTH)):
        assert np.array_equal(each.table(images[::-1]), features[::-1])
        assert digests("d")[0] not in each
        assert each.table([]).shape == (0, WIDTH)


@pytest.mark.parametrize(
    "change",
    [
        {"encoder_sha256": "b" * 64},
        {"preprocessing": squash(33)},
        {"feature": "image_embeds"},
        {"libraries": {"torch": "2.14.0"}},
    ],
)
def test_what_the_numbers_depend_on_is_in_the_key(tmp_path: Path, change: dict[str, str]) -> None:
    images = digests("a")
    FeatureCache(tmp_path, KEY, WIDTH).add(images, vectors(1))
    other = FeatureCache(tmp_path, msgspec.structs.replace(KEY, **change), WIDTH)
    assert images[0] not in other


@pytest.mark.parametrize("missing", [1, RECORD - 1])
def test_a_write_that_was_cut_short_costs_that_record_alone(tmp_path: Path, missing: int) -> None:
    images, features = digests("a", "b", "c"), vectors(3)
    cache = FeatureCache(tmp_path, KEY, WIDTH)
    cache.add(images[:2], features[:2])
    with cache.path.open("r+b") as file:
        file.truncate(2 * RECORD - missing)
    again = FeatureCache(tmp_path, KEY, WIDTH)
    assert [image in again for image in images] == [True, False, False]
    again.add(images[1:], features[1:])
    assert np.array_equal(FeatureCache(tmp_path, KEY, WIDTH).table(images), features)
    assert cache.path.stat().st_size == 3 * RECORD


@pytest.mark.parametrize("offset", [0, 31, 32, RECORD - 5, RECORD - 4, RECORD - 1])
def test_a_damaged_record_is_as_good_as_absent(tmp_path: Path, offset: int) -> None:
    images, features = digests("a", "b", "c"), vectors(3)
    cache = FeatureCache(tmp_path, KEY, WIDTH)
    cache.add(images, features)
    content = bytearray(cache.path.read_bytes())
    content[RECORD + offset] ^= 1
    cache.path.write_bytes(content)
    again = FeatureCache(tmp_path, KEY, WIDTH)
    assert [image in again for image in images] == [True, False, True]
    again.add(images[1:2], features[1:2])
    assert np.array_equal(FeatureCache(tmp_path, KEY, WIDTH).table(images), features)


def test_two_runs_may_write_at_the_same_time(tmp_path: Path) -> None:
    images, features = digests("a", "b", "c", "d"), vectors(4)
    first, second = (FeatureCache(tmp_path, KEY, WIDTH) for _ in range(2))
    first.add(images[:2], features[:2])
    second.add(images[1:], features[1:])
    assert np.array_equal(FeatureCache(tmp_path, KEY, WIDTH).table(images), features)
