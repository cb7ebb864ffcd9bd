import shutil
from pathlib import Path

import cv2
import numpy as np
from deepfake_tools.demonstration.crops import SIDE, write_held_out_crops, write_training_crops
from deepfake_tools.training.dataset import read_dataset


def coordinates(path: Path) -> list[Path]:
    """Writes a photograph whose every pixel tells where it is."""
    rows, columns = np.mgrid[:300, :450]
    image = np.dstack([columns % 256, columns // 256 * 128 + rows // 256, rows % 256])
    cv2.imwrite(str(path), image.astype(np.uint8))
    return [path]


def pixels(path: Path) -> set[bytes]:
    image = cv2.imread(str(path))
    assert image.shape == (SIDE, SIDE, 3)
    return {pixel.tobytes() for pixel in image.reshape(-1, 3)}


def test_nothing_that_is_asked_about_was_trained_on(tmp_path: Path) -> None:
    photographs = coordinates(tmp_path / "where.png")
    write_training_crops(photographs, tmp_path / "training", each=5)
    pairs = write_held_out_crops(photographs, tmp_path / "held-out", each=5)
    folders = sorted((tmp_path / "training" / "real").iterdir())
    parts = [set().union(*map(pixels, folder.iterdir())) for folder in folders]
    parts.append(set().union(*(pixels(pair.real) for pair in pairs)))
    assert len(parts) == 5
    # Parts of one photograph share no pixel, so that its folders may stand on both sides.
    assert sum(map(len, parts)) == len(set().union(*parts))


def test_folders_tell_the_labels_and_every_crop_has_its_copy(
    tmp_path: Path, examples: list[Path]
) -> None:
    write_training_crops(examples, tmp_path, each=3)
    images = read_dataset(tmp_path, None).images
    assert [image.label for image in images].count(0) == 3 * 4 * len(examples)
    real, fake = (set((tmp_path / kind).rglob("*.png")) for kind in ("real", "fake"))
    assert {p.relative_to(tmp_path / "real") for p in real} == {
        p.relative_to(tmp_path / "fake") for p in fake
    }
    for path in real:
        copy = tmp_path / "fake" / path.relative_to(tmp_path / "real")
        assert path.read_bytes() != copy.read_bytes()


def test_the_crops_are_the_same_every_time(tmp_path: Path, examples: list[Path]) -> None:
    contents = []
    for _ in range(2):
        pairs = write_held_out_crops(examples, tmp_path / "crops", each=2)
        contents.append([(p.real.read_bytes(), p.fake.read_bytes()) for p in pairs])
        shutil.rmtree(tmp_path / "crops")
    assert contents[0] == contents[1]
    assert len(contents[0]) == 2 * len(examples)
