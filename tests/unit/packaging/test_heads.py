"""Which of a classifier's outputs mean FAKE, by their labels' words."""

import pytest
from deepfake_tools.packaging.heads import fake_outputs
from deepfake_tools.packaging.hub import BuildError


@pytest.mark.parametrize(
    ("labels", "fake"),
    [
        (("Realism", "Deepfake"), 1),  # prithivMLmods/Deep-Fake-Detector-v2-Model
        (("Real", "Fake"), 1),  # dima806/deepfake_vs_real_image_detection
        (("Fake", "Real"), 0),  # prithivMLmods/deepfake-detector-model-v1
        (("artificial", "human"), 0),  # umm-maybe/AI-image-detector
        (("ai", "nature"), 0),
        (("REAL", "AI_GENERATED"), 1),
        (("real_image", "deep-fake image"), 1),
        (("0_real", "1_fake"), 1),
    ],
)
def test_two_plain_labels_say_which_is_fake(labels: tuple[str, ...], fake: int) -> None:
    assert fake_outputs(labels, (), "acme/m") == (fake,)


@pytest.mark.parametrize(
    "labels",
    [
        ("LABEL_0", "LABEL_1"),
        ("Real", "Realistic_fake"),
        ("Realistic_fake", "Fake"),
        ("Real", "Fake", "Synthetic"),
        ("Fake",),
        (),
        ("Fake", "Fake"),
        ("Fake", "Other"),
        ("not fake", "not real"),
        ("fake", "no-fake"),
        ("unreal", "unfaked"),
        ("", ""),
        ("cat", "dog"),
    ],
)
def test_labels_that_are_not_plain_want_fake_label(labels: tuple[str, ...]) -> None:
    with pytest.raises(BuildError, match=r"acme/m does not say plainly.*--fake-label") as caught:
        fake_outputs(labels, (), "acme/m")
    assert all(repr(label) in str(caught.value) for label in labels)


def test_chosen_labels_need_not_be_plain() -> None:
    assert fake_outputs(("LABEL_0", "LABEL_1"), ("LABEL_0",), "m") == (0,)
    assert fake_outputs(("gan", "photo", "diffusion"), ("diffusion", "gan"), "m") == (0, 2)
    assert fake_outputs(("Real", "Fake"), ("Real",), "m") == (0,)


@pytest.mark.parametrize("chosen", ["fake", "FAKE", "1"])
def test_a_label_that_is_not_there_is_refused_with_the_list(chosen: str) -> None:
    with pytest.raises(BuildError, match=f"m has no label '{chosen}'; .*'Real', 'Fake'"):
        fake_outputs(("Real", "Fake"), (chosen,), "m")


@pytest.mark.parametrize("labels", [("Fake",), ("Fake", "Fake"), ("Real", "Fake")])
def test_all_labels_cannot_be_fake(labels: tuple[str, ...]) -> None:
    with pytest.raises(BuildError, match="names all labels"):
        fake_outputs(labels, labels, "m")
