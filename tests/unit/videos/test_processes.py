"""Decoders that hang, eat memory, lie or die: they are killed, and the next video is read."""

import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil
import pytest
from deepfake_tools.errors import ImageRefusedError
from deepfake_tools.videos.frames import plan_videos
from deepfake_tools.videos.processes import Crew, Decoder, Picture
from deepfake_tools.videos.sampling import FrameChoice

Clips = Callable[[str], Path]
MB = 1 << 20
CHOICE = FrameChoice(4)

STAND_IN = """
import json, sys
for line in sys.stdin:
    request = json.loads(line)
    if request["path"].endswith("bad.mp4"):
        {misdeed}
    print(json.dumps({{"frames": [[0, 0.0]], "total": 1, "note": None}}), flush=True)
    print(json.dumps({{"done": True}}), flush=True)
"""


def stand_in(misdeed: str) -> tuple[str, ...]:
    """A decoder that finds one frame in every video, and does this to those called bad.mp4."""
    return sys.executable, "-c", STAND_IN.format(misdeed=misdeed)


def children() -> list[psutil.Process]:
    """Of this process, those that decode."""
    found = []
    for child in psutil.Process().children():
        if "deepfake_tools.videos.decoder" in " ".join(child.cmdline()):
            found.append(child)
    return found


@pytest.mark.parametrize(
    ("misdeed", "fault"),
    [
        ("import time; time.sleep(100)", "its decoder hung: nothing came of it in 1 s"),
        ("sys.exit(3)", "its decoder died with exit code 3"),
        ("import os; os.kill(os.getpid(), 11)", "its decoder died of signal 11"),
        ("print('no JSON', flush=True)", "its decoder said what cannot be used"),
        ("print('[1, 2]', flush=True)", "its decoder said what cannot be used"),
        ("print('{\"total\": 3}', flush=True)", "its decoder said what cannot be used"),
        ("print('{\"done\": 1}', flush=True); continue", "its decoder said nothing of it"),
        ("print('{\"frames\": [[1]]}', flush=True)", "its decoder said what cannot be used"),
        ("print('{\"bytes\": 1000000000000}', flush=True)", "its decoder said what cannot be used"),
        ("print('{\"bytes\": -5}', flush=True)", "its decoder said what cannot be used"),
    ],
)
def test_a_decoder_that_is_lost_is_named_and_replaced(misdeed: str, fault: str) -> None:
    with Decoder(silent_seconds=1, command=stand_in(misdeed)) as decoder:
        assert decoder.plan("good.mp4", CHOICE).fault is None
        began = time.monotonic()
        found = decoder.plan("bad.mp4", CHOICE).fault
        assert found is not None
        assert found.startswith(fault)
        assert time.monotonic() - began < 30
        again = decoder.plan("good.mp4", CHOICE)
        assert (again.fault, again.total) == (None, 1)


def test_a_decoder_that_works_long_and_says_so_is_let_be() -> None:
    misdeed = """
        import time
        for _ in range(10):
            time.sleep(0.2)
            print('{"alive": true}', flush=True)
    """.strip()
    with Decoder(silent_seconds=1, command=stand_in(misdeed)) as decoder:
        assert decoder.plan("bad.mp4", CHOICE).fault is None


def test_a_line_without_an_end_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deepfake_tools.videos.processes.LONGEST_LINE", MB)
    misdeed = "[sys.stdout.write('x' * 65536) for _ in iter(int, 1)]"
    with Decoder(silent_seconds=10, command=stand_in(misdeed)) as decoder:
        before = psutil.Process().memory_info().rss
        found = decoder.plan("bad.mp4", CHOICE).fault
        assert found is not None
        assert "a line without an end" in found
        assert psutil.Process().memory_info().rss - before < 64 * MB


def test_a_video_that_takes_too_much_memory_is_named_and_others_are_read(
    bad_clip: Clips, clip: Clips
) -> None:
    # An 8K frame takes 50 MB as it is decoded and 100 MB as RGB.
    with Decoder(memory_bytes=100 * MB) as decoder:
        for _ in range(2):
            huge = list(decoder.read(str(bad_clip("huge")), [0, 1, 2]))
            assert [number for number, _ in huge] == [0, 1, 2]
            assert all(isinstance(picture, ImageRefusedError) for _, picture in huge)
            good = list(decoder.read(str(clip("mp4")), [0, 30, 71]))
            assert [number for number, _ in good] == [0, 30, 71]
            assert all(isinstance(picture, bytes) for _, picture in good)
        assert max(child.memory_info().rss for child in children()) < 300 * MB
    with Decoder() as decoder:
        found = list(decoder.read(str(bad_clip("huge")), [0, 1, 2]))
        assert all(isinstance(picture, bytes) for _, picture in found)


def test_a_lost_decoder_is_not_waited_for_by_the_others(clip: Clips) -> None:
    def work(decoder: Decoder, job: int) -> Sequence[tuple[int, Picture]]:
        if job == 1:
            decoder.plan(str(clip("mp4")), CHOICE)
            decoder.kill()
        return list(decoder.read(str(clip("mp4")), [0, 40]))

    found = {}
    with Crew(work, range(6)) as crew:
        for place, (number, picture) in crew:
            found[place, number] = isinstance(picture, bytes)
    assert len(found) == 12
    assert all(good for (place, _), good in found.items() if place != 1)


def test_decoders_end_with_who_asked(clip: Clips) -> None:
    plans = plan_videos([str(clip("mp4"))] * 50, CHOICE)
    next(plans)
    started = children()
    assert started
    plans.close()  # type: ignore[attr-defined] # it is a generator
    gone, alive = psutil.wait_procs(started, timeout=10)
    assert gone
    assert not alive


def test_memory_stays_flat_over_200_videos(clip: Clips) -> None:
    path = str(clip("mp4"))
    sizes = []
    with Decoder(2) as decoder:
        for number in range(200):
            plan = decoder.plan(path, FrameChoice(3))
            pictures = [picture for _, picture in decoder.read(path, [n for n, _ in plan.frames])]
            assert all(isinstance(picture, bytes) for picture in pictures)
            if number in (20, 199):
                (child,) = children()
                sizes.append((child.memory_info().rss, psutil.Process().memory_info().rss))
    early, late = sizes
    assert late[0] - early[0] < 20 * MB
    assert late[1] - early[1] < 20 * MB
