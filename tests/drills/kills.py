"""Workers that are killed, and one that hangs, under client.py's load: nothing is lost."""

import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from deepfake_tools.torchserve.local_server import LocalServer

from benchmarks.photographs import write_images
from tests.drills.client_run import ClientResult, ClientRun
from tests.drills.drill import Finding, Ground
from tests.drills.rates import rate, recovery_s

TOLERANCE = 2e-5
"""Of `fake_probability`: how many images share a pass shows in its last digits."""

BACK_WITHIN_S = 10.0
AFTER_S = 4.0
"""Watched after the last damage, at least."""


@dataclass(frozen=True)
class _Size:
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


FULL = _Size(images=200, undisturbed=1000, spare=1.3, kills=4, every_s=25.0, hung_s=12.0)
SHORT = _Size(images=60, undisturbed=1200, spare=2.0, kills=1, every_s=5.0, hung_s=4.0)


def kill_workers(ground: Ground) -> Finding:
    """Kills a worker again and again with SIGKILL, and stops one with SIGSTOP."""
    size = SHORT if ground.short else FULL
    folder = ground.scratch / "kill"
    paths = write_images(ground.photographs, folder / "images", size.images)
    with ground.serving() as server:
        undisturbed = _copies(paths, folder / "undisturbed", size.undisturbed)
        with ClientRun(server, ground.name, undisturbed, folder / "undisturbed-results") as run:
            plain = run.result()
        ground.say(f"undisturbed: {len(plain.probabilities)} of {size.undisturbed} images answered")
        expected = {Path(path).name: value for path, value in plain.probabilities.items()}
        speed = _speed(run)
        seconds = size.every_s * size.kills + AFTER_S
        killed = _copies(paths, folder / "killed", int(size.spare * speed * seconds))
        figures, faults = _kill(ground, server, size, killed, expected)
        stopped = _copies(paths, folder / "stopped", int(speed * size.hung_s))
        more_figures, more_faults = _hang(ground, server, stopped, expected)
    if len(plain.probabilities) < size.undisturbed:
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
    ground: Ground, server: LocalServer, size: _Size, images: Path, expected: dict[str, float]
) -> tuple[list[str], list[str]]:
    moments: list[float] = []
    with ClientRun(server, ground.name, images, images.with_name("killed-results")) as run:
        run.watch(lambda: run.answers > 0)
        for number in range(size.kills):
            run.watch_for(size.every_s)
            if run.is_over:
                break
            pid = _worker(server, ground.name)
            # Asking takes its time under load, and two seconds before the damage look undamaged.
            moments.append(time.monotonic())
            os.kill(pid, signal.SIGKILL)
            ground.say(f"worker {number + 1} of {size.kills} killed")
        result = run.result()
    times = [recovery_s(run.progress, moment) for moment in moments]
    back = ", ".join("never" if time_s is None else f"{time_s:.1f}" for time_s in times)
    figures = [
        f"workers killed with SIGKILL: {len(moments)}, one every {size.every_s:g} s: "
        f"{_outcome(result, expected)}",
        f"back to full rate after {back} s",
    ]
    faults = _faults(result, expected)
    if not result.retries:
        faults.append("no request was repeated: the workers had nothing in hand")
    if len(moments) < size.kills:
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
