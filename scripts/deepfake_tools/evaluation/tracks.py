"""Follows faces through a video's frames: which boxes of different frames are one person."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import hypot

from deepfake_tools.torchserve.answers import Box

OVERLAP = 0.3
"""Intersection over union from which two boxes are one face wherever else there is one."""

NEAR = 1.5
"""Sides of a face that its centre moves at most between two frames that are judged.

A frame is a second or more from the next where 32 are taken of a minute: heads move by their own
width in that time. Two people beside each other are two to three widths apart.
"""

ALIKE = 2.0
"""How many times larger than before a face may be: another person stands nearer or farther."""

GAP = 3
"""Frames in a row in which a face may be missing: it was turned away, or covered."""


@dataclass(frozen=True, slots=True)
class Sighting:
    """What is thought of a frame, or of one face in it.

    Attributes:
        place: The frame's position among those of its video that were asked about.
        frame: Its number in the video; None where it is not known.
        time: In seconds from the video's beginning.
        fake_probability: In [0, 1].
        score: What it is ranked by.
        margin: The logit that `fake_probability` is the sigmoid of; None of an older archive.
        box: The face's; None of a whole frame.
    """

    place: int
    frame: int | None
    time: float
    fake_probability: float
    score: float
    margin: float | None = None
    box: Box | None = None


def follow(frames: Iterable[Sequence[Sighting]]) -> list[list[Sighting]]:
    """Returns the sightings of each person, the one who was seen first first.

    In each frame the pair of a person and a box that fits best is matched first, then the best of
    those left. Boxes that overlap fit better than boxes that are near one another, so that of two
    people who stand close each keeps the own box; what fits nobody is somebody new. Nothing is
    known of how a face looks: whoever stands in another's place after a cut goes on as that person,
    and who comes back after more than `GAP` frames is somebody new.

    Args:
        frames: The faces of each frame, in order; frames without any may be left out.
    """
    people: list[list[Sighting]] = []
    present: list[list[Sighting]] = []
    for faces in frames:
        if not faces:
            continue
        present = [person for person in present if faces[0].place - person[-1].place <= GAP + 1]
        left = dict(enumerate(faces))
        for person, face in _matches(present, faces):
            present[person].append(left.pop(face))
        new = [[face] for face in left.values()]
        people += new
        present += new
    return people


def _matches(
    people: Sequence[Sequence[Sighting]], faces: Sequence[Sighting]
) -> Iterator[tuple[int, int]]:
    """Yields positions of a person and of a face that go together, each at most once."""
    pairs = sorted(
        (fit, i, j)
        for i, person in enumerate(people)
        for j, face in enumerate(faces)
        if (fit := _fit(person[-1].box, face.box)) is not None
    )
    matched_people, matched_faces = set[int](), set[int]()
    for _, i, j in pairs:
        if i not in matched_people and j not in matched_faces:
            matched_people.add(i)
            matched_faces.add(j)
            yield i, j


def _fit(before: Box | None, now: Box | None) -> tuple[bool, float] | None:
    """Returns how well a box goes on from another, the smaller the better; None: not at all."""
    if before is None or now is None:
        return None
    sides = sorted((_side(before), _side(now)))
    if sides[1] > ALIKE * sides[0]:
        return None
    overlap = intersection_over_union(before, now)
    if overlap >= OVERLAP:
        return False, -overlap
    moved = hypot(*(_centre(before, axis) - _centre(now, axis) for axis in (0, 1)))
    return (True, moved / max(sides[0], 1)) if moved <= NEAR * sides[0] else None


def intersection_over_union(one: Box, other: Box) -> float:
    """Returns the share of what two boxes cover that both of them do, in [0, 1]."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    both = max(width, 0) * max(height, 0)
    whole = _side(one) ** 2 + _side(other) ** 2 - both
    return both / whole if whole > 0 else 0.0


def _side(box: Box) -> float:
    """The side of a square of the same area."""
    return float(((box[2] - box[0]) * (box[3] - box[1])) ** 0.5)


def _centre(box: Box, axis: int) -> float:
    return (box[axis] + box[axis + 2]) / 2
