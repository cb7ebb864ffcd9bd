"""Workers that are killed, and one that hangs, under client.py's load: nothing is lost."""

import os
import signal
import time
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from deepfake_tools.torchserve.local_server import LocalServer

from benchmarks.photographs import write_images
from tests.drills.commands import ClientResult, ClientRun
from tests.drills.drill import Finding, Ground

TOLERANCE = 2e-5
"""Of `fake_probability`: how many images share a pass shows in its last digits."""

BACK_WITHIN_S = 10.0
AFTER_S = 4.0
"""Watched after the last damage, at least."""

BEFORE_S = 4.0
WINDOW_S = 2.0

FULL_RATE = 0.8
"""The share of the rate before that counts as full: a batch more or less in two seconds is 5 %."""

Progress = Sequence[tuple[float, int]]
"""Moments in seconds, rising, each with how many answers had come by then."""


@dataclass(frozen=True)
class _Scale:
    """Of a drill.

    Attributes:
        images: Different ones.
        undisturbed: Images of the run that shows how fast it is, and what is right.
        spare: Times as many images for the kills as would do at that run's speed; a short run
            tells it less well.
        kills: How often a worker is killed.
        every_s: How far apart.
        hung_s: Seconds of answers around the worker that hangs.
    """

    images: int
    undisturbed: int
    spare: float
    kills: int
    every_s: float
    hung_s: float


FULL = _Scale(images=200, undisturbed=1000, spare=1.3, kills=4, every_s=25.0, hung_s=12.0)
SHORT = _Scale(images=60, undisturbed=1200, spare=2.0, kills=1, every_s=5.0, hung_s=4.0)


def kill_workers(ground: Ground) -> Finding:
    """Kills a worker again and again with SIGKILL, and stops one with SIGSTOP."""
    scale = SHORT if ground.short else FULL
    folder = ground.scratch / "kill"
    paths = write_images(ground.photographs, folder / "images", scale.images)
    with ground.serving() as server:
        undisturbed = _copies(paths, folder / "undisturbed", scale.undisturbed)
        with ClientRun(server, ground.name, undisturbed, folder / "undisturbed-results") as run:
            plain = run.result()
        ground.say(
            f"undisturbed: {len(plain.probabilities)} of {scale.undisturbed} images answered"
        )
        expected = {Path(path).name: value for path, value in plain.probabilities.items()}
        speed = _speed(run)
        seconds = scale.every_s * scale.kills + AFTER_S
        killed = _copies(paths, folder / "killed", int(scale.spare * speed * seconds))
        figures, faults = _kill(ground, server, scale, killed, expected)
        stopped = _copies(paths, folder / "stopped", int(speed * scale.hung_s))
        more_figures, more_faults = _hang(ground, server, stopped, expected)
    if len(plain.probabilities) < scale.undisturbed:
        faults.append("undisturbed, not every image was answered")
    if max(expected.values()) - min(expected.values()) < 100 * TOLERANCE:
        faults.append("the images' answers are too much alike to tell a wrong one by")
    first = f"undisturbed: {speed:.0f} images a second"
    return Finding((first, *figures, *more_figures), (*faults, *more_faults))


def _speed(run: ClientRun) -> float:
    """Images a second in the second half of a run; in the first the client finds its pace."""
    begun, ended = run.progress[0][0], run.progress[-1][0]
    return rate(run.progress, (begun + ended) / 2, ended)


def _copies(paths: Sequence[Path], folder: Path, count: int) -> Path:
    """Makes a folder of so many images, each of the given ones many times, as hard links."""
    folder.mkdir()
    for number in range(count):
        path = paths[number % len(paths)]
        path_again = folder / f"{number // len(paths):03}" / path.name
        path_again.parent.mkdir(exist_ok=True)
        path_again.hardlink_to(path)
    return folder


def _kill(
    ground: Ground, server: LocalServer, scale: _Scale, images: Path, expected: dict[str, float]
) -> tuple[list[str], list[str]]:
    moments: list[float] = []
    with ClientRun(server, ground.name, images, images.with_name("killed-results")) as run:
        run.watch(lambda: run.answers > 0)
        for number in range(scale.kills):
            run.watch_for(scale.every_s)
            if run.is_over:
                break
            pid = _worker(server, ground.name)
            # Asking takes its time under load, and two seconds before the damage look undamaged.
            moments.append(time.monotonic())
            os.kill(pid, signal.SIGKILL)
            ground.say(f"worker {number + 1} of {scale.kills} killed")
        result = run.result()
    times = [recovery_s(run.progress, moment) for moment in moments]
    back = ", ".join("never" if time_s is None else f"{time_s:.1f}" for time_s in times)
    figures = [
        f"workers killed with SIGKILL: {len(moments)}, one every {scale.every_s:g} s: "
        f"{_outcome(result, expected)}",
        f"back to full rate after {back} s",
    ]
    faults = _faults(result, expected)
    if not result.retries:
        faults.append("no request was repeated: the workers had nothing in hand")
    if len(moments) < scale.kills:
        faults.append("the run was over before the last worker was killed")
    if any(time_s is None or time_s > BACK_WITHIN_S for time_s in times):
        faults.append(f"not back to full rate within {BACK_WITHIN_S:g} s each time")
    return figures, faults


def _hang(
    ground: Ground, server: LocalServer, images: Path, expected: dict[str, float]
) -> tuple[list[str], list[str]]:
    limit_s = ground.response_timeout_s
    with ClientRun(server, ground.name, images, images.with_name("stopped-results")) as run:
        run.watch(lambda: run.answers > 0)
        run.watch_for(1.0)
        pid, begun = _worker(server, ground.name), time.monotonic()
        os.kill(pid, signal.SIGSTOP)
        ground.say(f"a worker hangs; it may take {limit_s} s")
        # The answers to what it had in hand come first; then none, until another one is up.
        run.watch_for(1.0)
        before = run.answers
        run.watch(lambda: run.answers > before)
        answered_s = time.monotonic() - begun
        result = run.result()
    faults = _faults(result, expected)
    if _worker(server, ground.name) == pid:
        faults.append("it was not replaced")
    if answered_s > limit_s + BACK_WITHIN_S:
        faults.append(f"answers came again {BACK_WITHIN_S:g} s later than responseTimeout has it")
    figures = [
        f"a worker stopped with SIGSTOP, responseTimeout {limit_s} s: answers again after "
        f"{answered_s:.1f} s; {_outcome(result, expected)}"
    ]
    return figures, faults


def _worker(server: LocalServer, name: str) -> int:
    """Returns the process id of the worker, once it is READY."""
    server.wait_ready(name)
    (worker,) = server.management().version(name).workers
    return worker.pid


def _wrong(result: ClientResult, expected: dict[str, float]) -> int:
    return sum(
        abs(value - expected[Path(path).name]) > TOLERANCE
        for path, value in result.probabilities.items()
    )


def _outcome(result: ClientResult, expected: dict[str, float]) -> str:
    return (
        f"{result.asked} images asked about, {len(result.probabilities)} answered, "
        f"{_wrong(result, expected)} wrongly, {result.retries} requests repeated, "
        f"in {result.seconds:.0f} s"
    )


def _faults(result: ClientResult, expected: dict[str, float]) -> list[str]:
    faults = []
    if result.failed or result.exit_code:
        faults.append(f"{len(result.failed)} images unanswered, exit code {result.exit_code}")
    if not result.is_complete:
        faults.append(f"{result.lines} lines about {result.asked} images")
    if wrong := _wrong(result, expected):
        faults.append(f"{wrong} wrong answers")
    return faults


def rate(progress: Progress, begin: float, end: float) -> float:
    """Returns answers a second between two moments."""
    return (_count(progress, end) - _count(progress, begin)) / (end - begin)


def recovery_s(progress: Progress, damage: float) -> float | None:
    """Returns how long after some damage answers came as fast as before.

    Args:
        progress: Of the whole run.
        damage: When it was done.

    Returns:
        Seconds from the damage to the first moment that begins two seconds at 80 % of the rate of
        the four seconds before it; None when there was no such moment, or no answer before.
    """
    wanted = FULL_RATE * rate(progress, damage - BEFORE_S, damage)
    if not wanted:
        return None
    last = progress[-1][0] - WINDOW_S
    begins = (moment for moment, _ in progress if damage <= moment <= last)
    found = (
        begin - damage for begin in begins if rate(progress, begin, begin + WINDOW_S) >= wanted
    )
    return next(found, None)


def _count(progress: Progress, moment: float) -> int:
    index = bisect_right(progress, moment, key=lambda entry: entry[0])
    return progress[index - 1][1] if index else 0
