"""The timeline of videos (--timeline): each frame's score by time, as a table or as a picture.

The table needs no library, the picture the extra `evaluate`.
"""

import argparse
import csv
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepfake_tools.evaluation.outcomes import LABELS
from deepfake_tools.evaluation.results_file import Run
from deepfake_tools.evaluation.videos import Track, VideoVerdict
from deepfake_tools.files import replacing, replacing_bytes
from deepfake_tools.videos.sampling import clock

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TABLE, PICTURE = ".csv", ".png"
COLUMNS = (
    "video",
    "time",
    "fake_probability",
    "margin",
    "track",
    "left",
    "top",
    "right",
    "bottom",
    "error",
)
MOST_PANELS = 20
"""Videos in one picture, the first ones; the table has all."""

MOST_NAMED = 8
MARKED = 100
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#000000", "#56b4e9")
"""Okabe and Ito's, which people tell apart who do not see all colours; each has its own line too.

https://jfly.uni-koeln.de/color/
"""

LINES = ("-", "--", "-.", ":")
MARKS = ("o", "s", "^", "D", "v", "X")
STYLE: dict[Any, Any] = {
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # matplotlib brings it
    "grid.color": "#dfe3e8",
    "legend.frameon": False,
}


def timeline_file(text: str) -> Path:
    """Reads where a timeline is to be written, as an argument's `type`."""
    path = Path(text)
    if path.suffix.lower() in (TABLE, PICTURE):
        return path
    raise argparse.ArgumentTypeError(
        f"{text!r} ends in neither {TABLE} (a table) nor {PICTURE} (a picture)"
    )


def is_picture(path: Path) -> bool:
    """Whether it is to be drawn, which needs the extra `evaluate`."""
    return path.suffix.lower() == PICTURE


def write_timeline(path: Path, run: Run) -> None:
    """Writes a run's timeline whole, or not at all.

    Args:
        path: The file to write, of a name that `timeline_file` takes.
        run: What to write.

    Raises:
        OSError: The file cannot be written.
    """
    (_draw if is_picture(path) else _write_table)(path, run)


def _write_table(path: Path, run: Run) -> None:
    with replacing(path) as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(COLUMNS)
        for video in run.videos():
            rows.writerows(_rows(video))


def _rows(video: VideoVerdict) -> list[tuple[object, ...]]:
    """Returns a row for each frame and face, by time; of one that does not count, why not."""
    found: list[tuple[int, int, tuple[object, ...]]] = []
    # Where the frames speak, since nobody is there for long, each face is in its person's track.
    for track in video.people or video.tracks:
        for one in track.sightings:
            box = one.box or (None,) * 4
            row = (video.path, one.time, one.fake_probability, one.margin, track.number, *box, None)
            found.append((one.place, track.number or 0, row))
    for gap in video.gaps:
        nothing = (None,) * (len(COLUMNS) - 3)
        found.append((gap.place, 0, (video.path, gap.time, *nothing, gap.error)))
    return [row for *_, row in sorted(found, key=lambda one: one[:2])]


def _draw(path: Path, run: Run) -> None:
    """Draws the first videos of a run, one below another."""
    import matplotlib
    from matplotlib.figure import Figure

    videos = list(islice(run.videos(), MOST_PANELS))
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # a matplotlibrc of the user's is for other drawings
        matplotlib.rcParams.update(STYLE)
        figure = Figure(figsize=(9, 0.6 + 2.6 * max(len(videos), 1)), layout="constrained")
        panels = figure.subplots(max(len(videos), 1), squeeze=False)[:, 0]
        for axes, video in zip(panels, videos, strict=False):
            _panel(axes, video, run.scoring.threshold)
        if not videos:
            panels[0].set_title("no video was asked about", loc="left")
        if (all_videos := run.metrics.videos + sum(run.metrics.video_failed.values())) > len(
            videos
        ):
            figure.suptitle(f"The first {len(videos)} of {all_videos} videos")
        with replacing_bytes(path) as file:
            figure.savefig(file, format="png", dpi=120)


def _panel(axes: "Axes", video: VideoVerdict, threshold: float) -> None:
    """Draws one video: a curve for each person, broken where the face was not found."""
    axes.set_title(_title(video), loc="left", fontsize=10, parse_math=False)
    axes.set(ylim=(-0.03, 1.03), ylabel="probability of fake")
    axes.axhline(threshold, color="#444444", linewidth=1, linestyle=(0, (1, 2)), label="threshold")
    for place, track in enumerate(video.tracks):
        _curve(axes, track, place)
    if not video.frames:
        axes.set_xticks([])
    missing = [gap.time for gap in video.gaps if gap.time is not None]
    if missing:
        at_bottom = [-0.03] * len(missing)
        axes.plot(missing, at_bottom, "|", color="#444444", label="left out", clip_on=False)
    axes.xaxis.set_major_formatter(lambda seconds, _: clock(max(seconds, 0)).removesuffix(".000"))
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=8)


def _curve(axes: "Axes", track: Track, place: int) -> None:
    colour = COLOURS[place % len(COLOURS)] if track.speaks else "#999999"
    name = "frames" if track.number is None else f"face {track.number}"
    label = f"{name}: {track.fake_probability:.4f}" if place < MOST_NAMED else None
    # Of many frames the marks would hide the line; what stands alone between two gaps has none.
    is_marked = len(track.sightings) <= MARKED
    for stretch in track.stretches():
        axes.plot(
            [one.time for one in stretch],
            [one.fake_probability for one in stretch],
            color=colour,
            linestyle=LINES[place % len(LINES)],
            linewidth=1.5,
            marker=MARKS[place % len(MARKS)] if is_marked or len(stretch) == 1 else "",
            markersize=4,
            zorder=3 if track.speaks else 2,
            label=label,
        )
        label = None  # the legend has each person once


def _title(video: VideoVerdict) -> str:
    name = "".join(char if char.isprintable() else "?" for char in Path(video.path).name)[-60:]
    if video.fake_probability is None:
        return f"{name}: no verdict, {video.error}"
    truth = "" if video.label is None else f"; true label {LABELS[video.label]}"
    return f"{name}: {LABELS[video.prediction]} ({video.fake_probability:.4f}){truth}"
