"""What is shown: words, maps in their place, and names that are no HTML."""

from dataclasses import replace

import pytest
from deepfake_tools.evaluation.videos import VideoScoring, judge_video
from deepfake_tools.page.showing import TOWARDS_FAKE, TOWARDS_REAL, curves, heat_map, in_words
from deepfake_tools.page.showing import moments as moments_of
from deepfake_tools.torchserve.answers import ServedExplanation, parse_verdict

from tests.unit.evaluation.frames import clip
from tests.unit.torchserve_stub import verdict

DETECTOR = replace(parse_verdict(verdict(head="head.pth")).detector, false_alarms=0.05)


def test_a_verdict_in_words():
    (outcome,) = clip("a", [0.75])
    assert list(in_words(outcome, DETECTOR)) == ["FAKE with confidence 75.0%."]
    calibrated = replace(outcome, decision="UNSURE", false_alarm_rate=0.062, unstable=True)
    calibrated = replace(calibrated, lowest=0.4, highest=0.8, faces=())
    words = " ".join(in_words(calibrated, DETECTOR))
    assert "Decision at 5 % false alarms: UNSURE; as fake as 6.2 % of your real images." in words
    assert "Unstable" in words
    assert "0.4000 to 0.8000" in words
    assert "No face was found" in words


def test_a_failure_is_in_the_clients_words():
    (outcome,) = clip("a", [0.75])
    failed = replace(outcome, error="not_an_image", message="refused as not_an_image: no image")
    assert list(in_words(failed, DETECTOR)) == ["No verdict: refused as not_an_image: no image."]


GRID = ((0.5, 0.0, -1.0), (0.01, 0.25, 0.0))


def test_a_map_covers_the_picture_where_it_does_not_say_otherwise():
    heat = heat_map(ServedExplanation("m", GRID, 0.25, 0.01, 1), width=300, height=100)
    assert heat.matrix == "100.0000 0.0000 0.0000 50.0000 0.0000 0.0000"
    assert (heat.strongest, heat.total) == (1.0, pytest.approx(-0.24))
    # 0.01 is less than can be seen.
    assert [(part.column, part.row, part.colour, part.strength) for part in heat.parts] == [
        (0, 0, TOWARDS_FAKE, 0.5),
        (2, 0, TOWARDS_REAL, 1.0),
        (1, 1, TOWARDS_FAKE, 0.25),
    ]


def test_a_map_of_a_turned_face_is_turned():
    corners = ((10.0, 20.0), (10.0, 80.0), (-30.0, 80.0), (-30.0, 20.0))  # a quarter clockwise
    made_of = ServedExplanation("m", GRID, 0.25, 0.01, 1, corners)
    heat = heat_map(made_of, width=300, height=100)
    a, b, c, d, e, f = map(float, heat.matrix.split())
    ends = [(a * x + c * y + e, b * x + d * y + f) for x, y in ((0, 0), (3, 0), (3, 2), (0, 2))]
    assert ends == [pytest.approx(corner) for corner in corners]


def test_a_map_of_nothing_has_no_parts():
    heat = heat_map(ServedExplanation("m", ((0.0,),), 0.25, 0.25, 1), width=3, height=3)
    assert (heat.parts, heat.strongest) == ([], 0.0)


def test_a_timeline_has_a_place_for_every_frame():
    frames = clip("a.mp4", [0.25, 0.5, 0.75, 1.0])
    frames[1] = replace(frames[1], error="no_face", fake_probability=None, prediction=None)
    judged = judge_video(frames, VideoScoring())
    moments = moments_of(judged, frames, shown=2)
    assert [one.fake_probability for one in moments] == [0.25, None, 0.75, 1.0]
    assert [one.left for one in moments] == [0.0, 0.25, 0.5, 0.75]
    assert [one.is_shown for one in moments] == [False, False, True, False]
    assert [one.time for one in moments] == ["00:00.000", "00:00.500", "00:01.000", "00:01.500"]
    # The line is broken where a frame does not count.
    assert curves(judged, len(frames)) == ["0.12500,0.75000", "0.62500,0.25000 0.87500,0.00000"]
