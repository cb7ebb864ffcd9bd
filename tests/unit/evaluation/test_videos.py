import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from deepfake_tools.evaluation.metrics import measure
from deepfake_tools.evaluation.outcomes import Outcome
from deepfake_tools.evaluation.video_lines import lines
from deepfake_tools.evaluation.videos import (
    VIDEO_SCORES,
    VideoScore,
    VideoScoring,
    failures,
    judge_video,
    judge_videos,
)
from deepfake_tools.torchserve.answers import parse_verdict
from scipy.special import expit
from sklearn.metrics import roc_auc_score

from tests.unit.evaluation.frames import (
    clip,
    crowd,
    face,
    failed,
    frame,
    numbered,
    square,
    unreadable,
)
from tests.unit.torchserve_stub import verdict

MEAN = VideoScoring()
ALL_FACES = VideoScoring(all_faces=True)


def top_tenth(scores: list[float]) -> float:
    return float(np.mean(np.sort(scores)[::-1][: max(1, len(scores) // 10)]))


INDEPENDENT = {"mean": np.mean, "median": np.median, "top10": top_tenth}


def random_clips(seed: int) -> list[list[Outcome]]:
    """Videos of both classes, of different lengths, whose scores overlap."""
    chance = random.Random(seed)
    return [
        clip(
            f"{number}.mp4",
            [chance.betavariate(2 + label, 3 - label) for _ in range(chance.randint(1, 40))],
            label,
        )
        for number, label in enumerate([0, 1] * 10)
    ]


@pytest.mark.parametrize("how", VIDEO_SCORES)
@pytest.mark.parametrize("seed", range(5))
def test_scores_and_auc_are_those_of_numpy_and_scikit_learn(how: VideoScore, seed: int):
    clips = random_clips(seed)
    scores = [INDEPENDENT[how]([one.fake_probability for one in group]) for group in clips]
    labels = [group[0].label for group in clips]
    run, scoring = numbered(*clips), VideoScoring(how)
    found = list(judge_videos(run, scoring))
    assert [one.fake_probability for one in found] == pytest.approx(scores, abs=1e-12)
    assert [one.prediction for one in found] == [int(score > 0.5) for score in scores]
    metrics = measure(run, scoring)
    assert metrics.video_auc == pytest.approx(roc_auc_score(labels, scores))
    right = [int(score > 0.5) == label for score, label in zip(scores, labels, strict=True)]
    assert metrics.video_accuracy == pytest.approx(np.mean(right))
    assert (metrics.videos, metrics.video_score) == (20, how)


def test_the_figures_of_videos_are_those_of_the_same_frames_in_folders():
    clips = random_clips(7)
    names = [("fake" if group[0].label else "real") + f"/{i:03}" for i, group in enumerate(clips)]
    by_hand = numbered(
        *(
            [
                replace(one, path=f"{name}/{i:03}.png", video=None, time=None)
                for i, one in enumerate(g)
            ]
            for name, g in zip(names, clips, strict=True)
        )
    )
    ours, theirs = measure(numbered(*clips)), measure(by_hand)
    assert theirs.videos == ours.videos == 20
    for figure in ("video_auc", "auc", "pr_auc", "accuracy", "images", "real", "fake"):
        assert getattr(ours, figure) == getattr(theirs, figure)


def test_one_video_of_either_class_has_an_auc_and_images_beside_them_do_not_count():
    images = [replace(one, video=None) for one in clip("x", [0.9, 0.8, 0.7], 0)]
    run = numbered(images, clip("a.mp4", [0.2, 0.4], 0), clip("b.mp4", [0.3, 0.7], 1))
    metrics = measure(run)
    assert (metrics.video_auc, metrics.videos, metrics.images) == (1.0, 2, 7)


def test_videos_of_one_class_have_no_auc():
    metrics = measure(numbered(clip("a.mp4", [0.2, 0.4], 0), clip("b.mp4", [0.3], 0)))
    assert (metrics.video_auc, metrics.videos) == (None, 2)


def test_videos_whose_scores_round_to_1_keep_their_ranks():
    def saturated(video: str, margin: float, label: int) -> list[Outcome]:
        return [
            replace(one, fake_probability=float(expit(margin)), margin=margin)
            for one in clip(video, [0.5] * 3, label)
        ]

    clips = [saturated(f"{i}.mp4", 50.0 + i, int(i > 3)) for i in range(8)]
    assert measure(numbered(*clips)).video_auc == 1.0


def test_the_threshold_is_the_detectors():
    detector = parse_verdict(verdict()).detector
    low = VideoScoring.of("mean", replace(detector, threshold=0.25))
    unknown = VideoScoring.of("mean", replace(detector, threshold=None))
    frames = clip("a.mp4", [0.2, 0.4])
    assert judge_video(frames, low).prediction == 1
    assert judge_video(frames, unknown).prediction == 0
    assert VideoScoring.of("mean", None).threshold == 0.5
    # At the threshold it is not above it.
    assert judge_video(clip("a.mp4", [0.25, 0.25]), low).prediction == 0


def test_frames_without_a_face_do_not_count_whether_refused_or_judged_whole():
    frames = clip("a.mp4", [0.8, 0.6, 0.7, 0.01])
    frames[1] = failed(frames[1], "no_face")
    frames[3] = replace(frames[3], faces=())
    found = judge_video(frames, MEAN)
    assert found.fake_probability == pytest.approx(0.75)
    assert (found.frames, found.left_out) == (2, {"no_face": 2})
    assert list(failures(frames)) == []


@pytest.mark.parametrize("whole", [False, True])
def test_a_video_without_any_face_has_no_verdict_and_is_one_failure(whole: bool):
    frames = clip("a.mp4", [0.1, 0.2, 0.1], 0)
    frames = [
        replace(one, faces=()) if whole else failed(one, "no_face", exit_code=1) for one in frames
    ]
    found = judge_video(frames, MEAN)
    assert (found.prediction, found.fake_probability, found.frames) == (None, None, 0)
    assert (found.error, found.message) == ("no_face", "no face in any of its 3 frames")
    assert list(failures(frames)) == [1]
    metrics = measure(frames)
    assert (metrics.videos, metrics.video_failed) == (0, {"no_face": 1})
    assert list(lines(found)) == ["No verdict: no face in any of its 3 frames"]


def test_a_video_whose_frames_all_failed_carries_the_first_failure():
    frames = clip("a.mp4", [0.1, 0.2, 0.1])
    frames = [
        failed(frames[0], "no_face"),
        failed(frames[1], "timeout", "late", exit_code=7),
        failed(frames[2], "worker_failed", "died", exit_code=5),
    ]
    found = judge_video(frames, MEAN)
    assert (found.error, found.message, found.exit_code) == ("timeout", "late", 7)
    assert found.left_out == {"no_face": 1, "timeout": 1, "worker_failed": 1}
    assert list(failures(frames)) == [7, 5]


def test_failures_of_a_run_with_everything_in_it():
    lone = replace(failed(clip("x.png", [0.1])[0], "no_face"), video=None)
    good = clip("good.mp4", [0.1, 0.2])
    partly = clip("partly.mp4", [0.1, 0.2])
    partly[0] = failed(partly[0], "no_face")
    cut = clip("cut.mp4", [0.1, 0.2])
    cut[1] = failed(cut[1], "truncated_video", exit_code=1)
    none = [failed(one, "no_face") for one in clip("none.mp4", [0.1, 0.2])]
    run = numbered([lone], good, partly, cut, none, [unreadable("text.mp4")])
    # The image without a face, the frame cut short, the video without faces, the text.
    assert list(failures(run)) == [1, 1, 1, 1]
    metrics = measure(run)
    assert metrics.failed == {"no_face": 1, "truncated_video": 1, "not_a_video": 1}
    assert metrics.faceless == 3
    assert metrics.video_failed == {"no_face": 1, "not_a_video": 1}
    assert (metrics.videos, metrics.images) == (3, 4)


def test_a_video_that_cannot_be_read_says_so():
    (found,) = judge_videos([unreadable("text.mp4")], MEAN)
    assert (found.path, found.error, found.message) == (
        "text.mp4",
        "not_a_video",
        "it holds no video",
    )
    assert found.frames == 0


def two_people(seconds: int = 20) -> list[Outcome]:
    """A real person on the left; on the right one who is fake, and walks through the picture."""
    chance = random.Random(1)
    return crowd(
        "two.mp4",
        [
            [
                face(square(150, 150, 120), chance.uniform(0.05, 0.15)),
                face(square(500 - 5 * place, 140, 70), chance.uniform(0.85, 0.95)),
            ]
            for place in range(2 * seconds)
        ],
    )


def test_of_two_people_each_has_a_score_and_the_highest_speaks():
    frames = two_people()
    found = judge_video(frames, ALL_FACES)
    assert [track.number for track in found.people] == [1, 2]
    for place, track in enumerate(found.people):
        scores = [one.faces[place].fake_probability for one in frames if one.faces]
        assert track.fake_probability == pytest.approx(np.mean(scores))
        assert len(track.sightings) == 40
        assert (track.first, track.last) == (0, 19.5)
    assert found.fake_probability == found.people[1].fake_probability
    assert found.prediction == 1


def test_a_face_that_appears_in_one_frame_does_not_speak():
    calm = [[face(square(150, 150, 120), 0.1)] for _ in range(32)]
    calm[9] = [*calm[9], face(square(600, 300, 50), 0.99)]
    found = judge_video(crowd("a.mp4", calm), ALL_FACES)
    assert found.fake_probability == pytest.approx(0.1)
    assert [track.speaks for track in found.people] == [True, False]
    assert all(one.fake_probability < 0.5 for one in found.most_fake)
    assert list(lines(found))[3:] == [
        "Face 1: 0.1000 in 32 frames, 00:00.000 to 00:15.500",
        "Faces: 1 more, less fake or in too few frames to count",
    ]


def test_a_face_in_a_tenth_of_the_frames_speaks():
    people = [[face(square(150, 150, 120), 0.1)] for _ in range(40)]
    for place in range(4):
        people[place] = [*people[place], face(square(600, 300, 50), 0.9)]
    assert judge_video(crowd("a.mp4", people), ALL_FACES).fake_probability == pytest.approx(0.9)
    people[0] = people[0][:1]
    assert judge_video(crowd("a.mp4", people), ALL_FACES).fake_probability == pytest.approx(0.1)


def test_of_one_frame_every_face_speaks():
    people = [[face(square(150, 150, 120), 0.1), face(square(600, 300, 50), 0.9)]]
    assert judge_video(crowd("a.mp4", people), ALL_FACES).fake_probability == pytest.approx(0.9)


def test_in_a_film_of_quick_cuts_the_frames_speak():
    """Of thirty people in a frame each, the highest would be FAKE in any film."""
    scores = [0.1 + place / 100 for place in range(30)]
    scores[12] = 0.95
    cuts = [[face(square(400 * place, 100, 80), score)] for place, score in enumerate(scores)]
    cuts[3].append(face(square(50, 50, 40), 0.02))
    found = judge_video(crowd("a.mp4", cuts), ALL_FACES)
    assert found.fake_probability == pytest.approx(np.mean(scores))
    assert len(found.people) == 31
    assert not any(track.speaks for track in found.people)
    assert found.frames == len(found.curve) == 30


def test_the_largest_face_of_each_frame_is_not_followed():
    """Whoever it is: as DeepfakeBench has it, the video is the mean of its frames."""
    seen = [[face(square(100 + 400 * (place % 2), 100, 80), 0.2)] for place in range(10)]
    found = judge_video(crowd("a.mp4", seen), MEAN)
    assert found.people == ()
    assert found.frames == 10
    assert found.tracks[0].sightings[3].box == square(500, 100, 80)


def test_a_video_says_its_frames_and_when_it_is_most_fake():
    scores = [0.2] * 40
    scores[20:24] = [0.7, 0.98, 0.97, 0.7]
    scores[35] = 0.6
    frames = clip("a.mp4", scores)
    frames[5] = failed(frames[5], "no_face")
    frames[6] = failed(frames[6], "no_face")
    frames[7] = failed(frames[7], "timeout")
    found = judge_video(frames, VideoScoring("top10"))
    said = list(lines(found))
    assert said[0] == "Prediction: FAKE (confidence: 0.8833)"  # of 37 the three most fake
    assert said[1] == "Frames: 37 judged, 3 left out (no_face 2, timeout 1)"
    # The neighbours of 00:10.500 are of the same moment.
    assert said[2] == "Most fake: 00:10.500 (0.9800), 00:17.500 (0.6000), 00:00.000 (0.2000)"
    assert len(said) == 3


def test_two_people_are_told_apart_in_words():
    found = judge_video(two_people(), ALL_FACES)
    assert list(lines(found))[3:] == [
        f"Face {number}: {track.fake_probability:.4f} in 40 frames, 00:00.000 to 00:19.500"
        for number, track in enumerate(found.people, start=1)
    ]


def test_a_real_video_has_the_confidence_of_being_real():
    assert next(lines(judge_video(clip("a.mp4", [0.25, 0.25]), MEAN))) == (
        "Prediction: REAL (confidence: 0.7500)"
    )


def test_the_worst_videos_are_the_most_confident_mistakes():
    clips = [clip(f"{i}.mp4", [0.5 + i / 100] * 900, 0) for i in range(1, 31)]
    clips += [clip("fake.mp4", [0.05] * 3, 1), clip("right.mp4", [0.99], 1)]
    worst = measure(numbered(*clips)).video_mistakes
    assert [one.path for one in worst] == ["fake.mp4", *(f"{i}.mp4" for i in range(30, 19, -1))]
    # A drawing shows no more; a thousand long videos must not stay in memory.
    assert max(len(track.sightings) for one in worst for track in one.tracks) <= 400


def test_stretches_are_broken_where_frames_are_missing_also_when_thinned():
    frames = clip("a.mp4", [0.5] * 2000)
    frames[900:1100] = [failed(one, "no_face") for one in frames[900:1100]]
    (track,) = judge_video(frames, MEAN).tracks
    assert [len(stretch) for stretch in track.stretches()] == [900, 900]
    thin = track.thinned()
    assert len(thin.sightings) <= 400
    assert len(list(thin.stretches())) == 2


def test_a_run_that_was_ended_in_a_video_judges_the_frames_that_it_has():
    frames = clip("a.mp4", [0.2, 0.4, 0.6])
    found = judge_video([frames[0], frames[2]], MEAN)
    assert found.fake_probability == pytest.approx(0.4)
    # The place of the one that was not asked about stays free.
    assert [one.place for one in found.curve] == [0, 2]


LARGE = """
import random, time
from pathlib import Path
from deepfake_tools.evaluation.metrics import measure
from deepfake_tools.evaluation.outcomes import Outcome
def outcomes():
    chance = random.Random(0)
    for i in range(64_000):
        video, label = i // 32, i // 32 % 2
        score = min(max(chance.gauss(0.4 + 0.2 * label, 0.2), 0.0), 1.0)
        yield Outcome(i, f"{video}.mp4@{i}", label, "", int(score > 0.5), score, 0.1,
                      video=f"{video}.mp4", time=i % 32 / 2, frame=i % 32)
metrics = measure(outcomes())
assert (metrics.images, metrics.videos) == (64_000, 2000)
peak = next(x for x in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in x)
print(peak.split()[1])
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's peak memory")
def test_2000_videos_take_little_memory():
    run = subprocess.run(
        [sys.executable, "-c", LARGE],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": ":".join(sys.path)},
    )
    # As much as 100,000 images take: what is left of a video is two numbers.
    assert int(run.stdout) < 200 * 1024


def test_a_frame_of_a_faceless_scene_counts_as_an_image_as_it_would_by_itself():
    frames = [frame("a.mp4", 0, 0.3, 0), replace(frame("a.mp4", 1, 0.2, 0), faces=())]
    assert measure(frames).images == 2
