import random

import numpy as np
import pytest
from deepfake_tools.evaluation.tracks import GAP, Sighting, follow, intersection_over_union
from deepfake_tools.torchserve.answers import Box

from tests.unit.evaluation.frames import square


def seen(place: int, *boxes: Box) -> list[Sighting]:
    return [Sighting(place, None, float(place), 0.5, 0.0, box=box) for box in boxes]


def places(track: list[Sighting]) -> list[int]:
    return [one.place for one in track]


@pytest.mark.parametrize("seed", range(20))
def test_overlap_is_the_share_of_pixels(seed: int):
    chance = np.random.default_rng(seed)
    masks, boxes = [], []
    for _ in range(2):
        left, top = chance.integers(0, 30, 2)
        width, height = chance.integers(1, 30, 2)
        boxes.append((int(left), int(top), int(left + width), int(top + height)))
        mask = np.zeros((64, 64), bool)
        mask[top : top + height, left : left + width] = True
        masks.append(mask)
    expected = (masks[0] & masks[1]).sum() / (masks[0] | masks[1]).sum()
    assert intersection_over_union(*boxes) == pytest.approx(expected)


def test_boxes_without_pixels_do_not_overlap():
    assert intersection_over_union((5, 5, 5, 5), (5, 5, 5, 5)) == 0


def test_two_people_who_change_places_stay_two_people():
    """A large face walks to the right in front of a small one that walks to the left."""
    frames, large, small = [], [], []
    for place in range(30):
        a = square(100 + 20 * place, 200, 160)
        b = square(680 - 20 * place, 200, 60)
        large.append(a)
        small.append(b)
        # As a detector has it: the largest one first, behind it in any order.
        frames.append(seen(place, a, b))
    tracks = follow(frames)
    assert [[one.box for one in track] for track in tracks] == [large, small]


def test_people_of_one_size_side_by_side_keep_their_boxes_whatever_their_order():
    chance = random.Random(3)
    frames = []
    for place in range(40):
        boxes = [square(x + chance.randint(-25, 25), 100, 80) for x in (100, 300, 500)]
        chance.shuffle(boxes)
        frames.append(seen(place, *boxes))
    tracks = follow(frames)
    assert len(tracks) == 3
    for track in tracks:
        centres = [(one.box[0] + one.box[2]) / 2 for one in track if one.box is not None]
        assert len(centres) == 40
        assert max(centres) - min(centres) <= 50


def test_a_face_that_is_gone_for_a_few_frames_comes_back():
    box = square(50, 50, 40)
    frames = [seen(place, box) for place in (0, 1, 2 + GAP, 3 + GAP)]
    assert [places(track) for track in follow(frames)] == [[0, 1, 2 + GAP, 3 + GAP]]


def test_a_face_that_is_gone_for_longer_is_somebody_new():
    box = square(50, 50, 40)
    frames = [seen(place, box) for place in (0, 1, 3 + GAP)]
    assert [places(track) for track in follow(frames)] == [[0, 1], [3 + GAP]]


def test_the_one_who_is_missing_does_not_get_the_neighbours_box():
    left, right = square(100, 100, 80), square(190, 100, 80)
    frames = [seen(0, left, right), seen(1, right), seen(2, right), seen(3, left, right)]
    assert [places(track) for track in follow(frames)] == [[0, 3], [0, 1, 2, 3]]


def test_a_head_may_move_by_its_width_between_frames_and_not_across_the_room():
    near = follow([seen(0, square(100, 100, 80)), seen(1, square(190, 100, 80))])
    far = follow([seen(0, square(100, 100, 80)), seen(1, square(300, 100, 80))])
    assert (len(near), len(far)) == (1, 2)


def test_a_face_of_another_size_in_the_same_place_is_another_face():
    assert len(follow([seen(0, square(100, 100, 40)), seen(1, square(100, 100, 90))])) == 2


def test_frames_without_a_face_are_passed_over():
    box = square(50, 50, 40)
    assert follow([]) == []
    assert [places(track) for track in follow([[], seen(1, box), [], seen(3, box)])] == [[1, 3]]
