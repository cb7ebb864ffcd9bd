"""Videos of a run: each taken apart into the frames to ask about, which are decoded as they go."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from deepfake_tools.client.images import Collection, Frame, Image
from deepfake_tools.image_files import is_video
from deepfake_tools.progress import Progress
from deepfake_tools.videos.frames import plan_videos
from deepfake_tools.videos.processes import Crew, Decoder, Picture, VideoPlan
from deepfake_tools.videos.sampling import FrameChoice, clock


def take_apart(collection: Collection, choice: FrameChoice) -> tuple[Collection, dict[str, str]]:
    """Puts the chosen frames of each video in its place.

    Every video is read once for this, and none is decoded: so the run knows how many images it
    has, and `--resume` that they are the same. A video of which nothing can be judged stays, with
    its fault.

    Returns:
        The collection, and what a person should know of a video, by its path.
    """
    videos = [image.path for image in collection.images if is_video(image.path)]
    if not videos:
        return collection, {}
    progress = Progress(sys.stderr, "videos looked into", len(videos))
    plans: dict[str, VideoPlan] = {}
    try:
        for plan in plan_videos(videos, choice):
            plans[plan.path] = plan
            progress.update(len(plans))
    finally:
        progress.clear()
    images: list[Image] = []
    for image in collection.images:
        found = plans.get(image.path)
        images += [image] if found is None else _images(image, found)
    notes = {plan.path: plan.note for plan in plans.values() if plan.note is not None}
    return replace(collection, images=images), notes


def _images(video: Image, plan: VideoPlan) -> list[Image]:
    if plan.fault is not None:
        return [replace(video, fault=plan.fault)]
    return [
        replace(video, path=f"{video.path}@{clock(time)}", frame=Frame(video.path, number, time))
        for number, time in plan.frames
    ]


@dataclass(frozen=True)
class _Job:
    """Frames to decode of one video.

    Attributes:
        video: Its path.
        places: Of each frame's number, the frame's position in the run.
    """

    video: str
    places: Mapping[int, int]


class FrameFeed:
    """Decodes the frames that are asked for, several videos at a time; a context manager.

    Args:
        images: Of the run.
        wanted: Positions of frames among them, in order.
    """

    def __init__(self, images: Sequence[Image], wanted: Sequence[int]) -> None:
        jobs: dict[str, dict[int, int]] = {}
        for index in wanted:
            frame = images[index].frame
            assert frame is not None  # they are positions of frames
            jobs.setdefault(frame.video, {})[frame.number] = index
        self._jobs = [_Job(video, places) for video, places in jobs.items()]
        self._crew: Crew[_Job, tuple[int, Picture]] | None = None

    def __enter__(self) -> "FrameFeed":
        if self._jobs:
            self._crew = Crew(_decode, self._jobs)
        return self

    def __exit__(self, *error: object) -> None:
        if self._crew is not None:
            self._crew.close()

    def __iter__(self) -> Iterator[tuple[int, Picture]]:
        """Yields each frame's position in the run, and its image file's bytes or why there is none.

        No more pictures are kept than there are decoders: they wait until one is taken.
        """
        if self._crew is not None:
            yield from (found for _, found in self._crew)


def _decode(decoder: Decoder, job: _Job) -> Iterator[tuple[int, Picture]]:
    for number, picture in decoder.read(job.video, sorted(job.places)):
        yield job.places[number], picture
