"""Follows faces through a video's frames: which boxes of different frames are one person."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import hypot, inf
from typing import NamedTuple

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
    before = [_Square.around(person[-1].box) for person in people]
    now = [_Square.around(face.box) for face in faces]
    pairs = sorted(
        (fit, i, j)
        for i, one in enumerate(before)
        for j, other in enumerate(now)
        # Of a crowd nearly all pairs are far apart: they are passed over at once.
        if abs(one.x - other.x) <= NEAR * one.side and (fit := _fit(one, other)) is not None
    )
    matched_people, matched_faces = set[int](), set[int]()
    for _, i, j in pairs:
        if i not in matched_people and j not in matched_faces:
            matched_people.add(i)
            matched_faces.add(j)
            yield i, j


class _Square(NamedTuple):
    """A face's box, its centre, and the side of a square of the same area."""

    box: Box
    x: float
    y: float
    side: float

    @classmethod
    def around(cls, box: Box | None) -> "_Square":
        """Returns that of a box; nothing goes together with what has none."""
        if box is None:
            return cls((0, 0, 0, 0), inf, inf, 0.0)
        return cls(box, (box[0] + box[2]) / 2, (box[1] + box[3]) / 2, _area(box) ** 0.5)


def _fit(before: _Square, now: _Square) -> tuple[bool, float] | None:
    """Returns how well a face goes on from another, the smaller the better; None: not at all."""
    smaller, larger = sorted((before.side, now.side))
    if larger > ALIKE * smaller:
        return None
    moved = hypot(before.x - now.x, before.y - now.y)
    overlap = intersection_over_union(before.box, now.box)
    if overlap >= OVERLAP:
        return False, -overlap
    return (True, moved / max(smaller, 1)) if moved <= NEAR * smaller else None


def intersection_over_union(one: Box, other: Box) -> float:
    """Returns the share of what two boxes cover that both of them do, in [0, 1]."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    both = max(width, 0) * max(height, 0)
    whole = _area(one) + _area(other) - both
    return both / whole if whole > 0 else 0.0


def _area(box: Box) -> int:
    return (box[2] - box[0]) * (box[3] - box[1])
