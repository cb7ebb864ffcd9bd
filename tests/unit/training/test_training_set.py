import hashlib
from pathlib import Path

import numpy as np
import pytest
from deepfake_tools.training.dataset import LabelledImage, TrainingError
from deepfake_tools.training.features import Broken, FeatureTable
from deepfake_tools.training.training_set import group_images, make_training_set


def table(*images: tuple[str, str, int]) -> FeatureTable:
    """Features of images given as path, content and label, besides 24 that are always there."""
    usual = [(f"{n % 4}/{n}.png", f"content {n}", n % 2) for n in range(24)]
    every = [*usual, *images]
    return FeatureTable(
        images=[LabelledImage(Path(path), label) for path, _, label in every],
        digests=[hashlib.sha256(content.encode()).digest() for _, content, _ in every],
        features=np.arange(len(every), dtype=np.float32)[:, None],
        broken=[Broken(Path("bad.png"), "no image")],
        computed=0,
    )


def test_a_repeated_image_counts_once() -> None:
    found = make_training_set(table(("copy/of/3.png", "content 3", 1), ("new.png", "new", 0)))
    assert found.features[:, 0].tolist() == [*range(24), 25]
    assert found.labels.tolist() == [*[0, 1] * 12, 0]
    assert found.groups == [*[str(n % 4) for n in range(24)], "."]
    history = found.history
    assert (history.real, history.fake, history.repeated, history.broken) == (13, 12, 1, 1)
    assert history.folders == 5


def test_an_image_with_both_labels_is_an_error_that_names_both_files() -> None:
    with pytest.raises(TrainingError, match=r"3/3\.png and real/x\.png are the same image"):
        make_training_set(table(("real/x.png", "content 3", 0)))


def test_the_fingerprint_is_of_contents_and_labels() -> None:
    first = make_training_set(table(("a.png", "a", 0))).history.sha256
    renamed = make_training_set(table(("b/c.png", "a", 0))).history.sha256
    relabelled = make_training_set(table(("a.png", "a", 1))).history.sha256
    changed = make_training_set(table(("a.png", "b", 0))).history.sha256
    assert first == renamed
    assert len({first, relabelled, changed}) == 3
    lines = [("a", 0), *((f"content {n}", n % 2) for n in range(24))]
    text = "".join(
        sorted(f"{hashlib.sha256(content.encode()).hexdigest()} {n}\n" for content, n in lines)
    )
    assert first == hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.parametrize(("real", "fake"), [(0, 30), (30, 0), (9, 30), (30, 9)])
def test_too_few_of_a_class_are_an_error_that_says_what_is_needed(real: int, fake: int) -> None:
    full = table()
    wanted = [*range(real), *range(100, 100 + fake)]
    images = [LabelledImage(Path(f"{n}.png"), 1 if n >= 100 else 0) for n in wanted]
    digests = [hashlib.sha256(str(n).encode()).digest() for n in wanted]
    few = FeatureTable(images, digests, np.zeros((len(images), 1), np.float32), full.broken, 0)
    with pytest.raises(
        TrainingError, match=rf"^{real} real and {fake} fake images .* at least 10 different"
    ):
        make_training_set(few)


@pytest.mark.parametrize(
    ("paths", "groups"),
    [
        (["real/a/1.png", "fake/a/1.png", "fake/b/1.png"], ["fake/a", "fake/a", "fake/b"]),
        (["real/012/7.png", "fake/012_345/7.png"], ["fake/012_345", "fake/012_345"]),
        (["real/a/1.png", "fake/a/2.png"], ["real/a", "fake/a"]),
        # Two fakes of one video, whose folders meet in that of the video.
        (
            ["real/012/7.png", "x/fake/012_1/7.png", "y/fake/012_2/7.png"],
            ["real/012", "real/012", "real/012"],
        ),
    ],
)
def test_what_was_made_of_a_video_stays_with_it(paths: list[str], groups: list[str]) -> None:
    images = [LabelledImage(Path(path), int("fake" in path)) for path in paths]
    assert group_images(images) == groups
