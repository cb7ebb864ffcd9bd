"""Frames of videos: which are chosen, their pictures, and folders of them for what reads files.

Importing this needs no library; what it returns needs the extra `videos`.
"""

import hashlib
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from clip_deepfake.system import available_cores

from deepfake_tools.videos.processes import Crew, Decoder, Picture, VideoPlan
from deepfake_tools.videos.sampling import FrameChoice

J = TypeVar("J")
T = TypeVar("T")


def read_frames(path: str, numbers: Sequence[int]) -> Iterator[tuple[int, Picture]]:
    """Decodes frames of one video; see `Decoder.read`."""
    with Decoder(available_cores()) as decoder:
        yield from decoder.read(path, numbers)


def plan_videos(paths: Sequence[str], choice: FrameChoice) -> Iterator[VideoPlan]:
    """Finds out which frames of videos are chosen, several videos at a time.

    Yields:
        A plan for each, in their order.
    """

    def plan(decoder: Decoder, path: str) -> Iterator[VideoPlan]:
        yield decoder.plan(path, choice)

    yield from _in_order(plan, paths)


def _in_order(work: Callable[[Decoder, J], Iterable[T]], jobs: Sequence[J]) -> Iterator[T]:
    """Yields the one finding of each job, in the order of the jobs."""
    with Crew(work, jobs) as crew:
        early: dict[int, T] = {}
        for place in range(len(jobs)):
            while place not in early:
                found, known = next(crew)
                early[found] = known
            yield early.pop(place)


@dataclass(frozen=True)
class Extracted:
    """A video whose frames lie in files.

    Attributes:
        path: Of the video.
        files: Of its frames, in the order of showing, named by their times in milliseconds; all in
            one folder, which is this video's alone.
        note: What a person should know of the video.
        fault: Why there are none.
    """

    path: str
    files: Sequence[Path] = ()
    note: str | None = None
    fault: str | None = None


def extract(paths: Sequence[str], choice: FrameChoice, folder: Path) -> Iterator[Extracted]:
    """Writes the chosen frames of videos as PNG files, for what reads files again and again.

    Args:
        paths: Of the videos.
        choice: Of the frames.
        folder: Takes a folder for each video, by its content and the choice; what an earlier call
            has left there is used again.

    Yields:
        What became of each video, in their order.
    """

    def work(decoder: Decoder, path: str) -> Iterator[Extracted]:
        yield _extracted(decoder, path, choice, folder)

    yield from _in_order(work, paths)


def _extracted(decoder: Decoder, path: str, choice: FrameChoice, folder: Path) -> Extracted:
    try:
        with Path(path).open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        return Extracted(path, fault=f"it cannot be read: {error.strerror}")
    plan = decoder.plan(path, choice)
    if plan.fault is not None:
        return Extracted(path, fault=plan.fault)
    name = hashlib.sha256(f"{content} {choice!r}".encode()).hexdigest()[:32]
    target, notes = folder / name, [] if plan.note is None else [plan.note]
    # A decoder that was lost left some out: they may be there this time.
    if len(list(target.glob("*.png"))) < len(plan.frames):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".", dir=folder) as partial:
            times = dict(plan.frames)
            for number, picture in decoder.read(path, list(times), to_keep=True):
                if isinstance(picture, bytes):
                    Path(partial, f"{round(times[number] * 1000):09}.png").write_bytes(picture)
                else:
                    notes.append(str(picture))
            Path(partial).chmod(0o755)
            shutil.rmtree(target, ignore_errors=True)
            with suppress(OSError):  # another process was as quick
                Path(partial).rename(target)
    files = sorted(target.glob("*.png"))
    if not files:
        return Extracted(path, fault=notes[-1])
    return Extracted(path, files, "; ".join(notes) or None)
