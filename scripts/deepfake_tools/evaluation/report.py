"""The HTML report (--report): one page that shows and explains a run; needs `evaluate`."""

import unicodedata
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from deepfake_tools.evaluation import plots
from deepfake_tools.evaluation.comparison_lines import comparison_lines
from deepfake_tools.evaluation.figures import RESAMPLES, Interval, Metrics
from deepfake_tools.evaluation.folder_lines import MACRO
from deepfake_tools.evaluation.outcomes import LABELS, Totals
from deepfake_tools.evaluation.paper_table import comparison_rows
from deepfake_tools.evaluation.perturbations import KINDS, PerturbedRun
from deepfake_tools.evaluation.pictures import SIDE, STRIP_SIDE, Pictures, WantedFrame
from deepfake_tools.evaluation.results_file import TRAINED_ON, Run
from deepfake_tools.evaluation.tracks import Sighting
from deepfake_tools.evaluation.video_lines import SCORES
from deepfake_tools.evaluation.videos import VideoVerdict
from deepfake_tools.files import replacing
from deepfake_tools.videos.sampling import clock

TEMPLATE = "report.html.jinja"
MAX_FAILURES = 20
MAX_FOLDERS = 200
MAX_VIDEOS = 200
STRIP = 6
"""Frames under a video's curve."""

NONE = "\N{EN DASH}"

Row = tuple[str, ...]
"""A table's cells, or a name and what it stands for."""


def write_report(path: Path, run: Run) -> None:
    """Writes the page whole, or not at all.

    Args:
        path: The file to write; one that is there is replaced.
        run: What it tells. The files of its mistakes, videos too, are read for their pictures.

    Raises:
        OSError: The file cannot be written.
    """
    with replacing(path) as file:
        file.write(format_report(run, datetime.now(UTC)))


def format_report(run: Run, written: datetime) -> str:
    """Returns the page, which says when it was written."""
    metrics, totals = run.metrics, run.totals
    kinds = dict.fromkeys(one.perturbation.kind for one in run.perturbed)
    template = _environment().get_template(TEMPLATE)
    return template.render(
        metrics=metrics,
        totals=totals,
        trained_on=TRAINED_ON if run.is_trained_on else None,
        perturbed=run.perturbed,
        written=written,
        decisions=_decisions(metrics),
        robustness=_robustness(metrics, run.perturbed),
        units="; ".join(f"{kind}: {KINDS[kind].unit}" for kind in kinds),
        folders=list(_folders(metrics)),
        max_folders=MAX_FOLDERS,
        confusion=_confusion(metrics),
        comparisons=list(_comparisons(run)),
        videos=[_video(video) for video in islice(run.videos(), MAX_VIDEOS)],
        video_score=SCORES.get(metrics.video_score or ""),
        strip=_strip,
        threshold=run.scoring.threshold,
        clock=clock,
        speed=_speed(metrics, totals),
        failures=_failures(metrics),
        card=_card(totals),
        has_maps=run.maps is not None,
        resamples=RESAMPLES,
        plots=plots,
        pictures=Pictures(_wanted_frames(metrics), run.maps),
    )


def _environment() -> Environment:
    """Returns what fills in the template; nothing gets in unescaped but the plots' own markup."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        finalize=_visible,
        undefined=StrictUndefined,
        keep_trailing_newline=True,
    )
    environment.filters.update(figure=_figure, interval=_interval, thousands=_thousands)
    return environment


def _visible(value: object) -> object:
    """Replaces what would not be seen as it stands: controls, turned directions, broken bytes.

    File names and what a server says may hold anything.

    Args:
        value: What the template shows; all but plain texts, markup among them, stay as they are.
    """
    if type(value) is not str:
        return value
    return "".join(
        char if unicodedata.category(char)[0] not in "CZ" or char == " " else _stand_in(char)
        for char in value
    )


def _stand_in(char: str) -> str:
    return " " if char.isspace() else "\N{REPLACEMENT CHARACTER}"


def _figure(value: float | None) -> str:
    """Returns a figure as the results file has it, or a dash."""
    return NONE if value is None else f"{value:.4f}"


def _interval(bounds: Interval | None) -> str:
    return NONE if bounds is None else f"{bounds[0]:.4f} to {bounds[1]:.4f}"


def _thousands(number: int) -> str:
    return f"{number:,}"


def _decisions(metrics: Metrics) -> Sequence[Row]:
    """Returns how the images of each label are called."""
    return [
        (one.label, *map(_thousands, (one.images, one.fake, one.unsure, one.real)))
        for one in metrics.decisions
    ]


def _robustness(plain: Metrics, runs: Sequence[PerturbedRun]) -> Iterator[Row]:
    """Yields what became of the figures under each perturbation, the images as they are first."""
    named = [("none", plain, None), *((str(r.perturbation), r.metrics, r.held) for r in runs)]
    for name, metrics, held in named:
        change = NONE
        if metrics is not plain and metrics.auc is not None and plain.auc is not None:
            change = f"{metrics.auc - plain.auc:+.4f}".replace("-", "\N{MINUS SIGN}")
        yield (
            name,
            _figure(metrics.auc),
            change,
            _interval(metrics.auc_interval),
            _figure(metrics.pr_auc),
            _figure(metrics.accuracy),
            _figure(held),
            _thousands(sum(metrics.failed.values())),
        )


def _folders(metrics: Metrics) -> Iterator[Row]:
    """Yields a row for each folder, as far as a page takes them, and the generators' mean."""
    for folder in metrics.folders[:MAX_FOLDERS]:
        yield (
            folder.folder or "(the folder itself)",
            _figure(folder.auc),
            _figure(folder.accuracy),
            _figure(folder.mean_probability),
            *map(_thousands, (folder.images, folder.real, folder.fake)),
            _interval(folder.auc_interval),
            _figure(folder.tpr_at_1_fpr),
            _figure(folder.tpr_at_01_fpr),
        )
    if (macro := metrics.macro) is not None:
        rates = map(_figure, (macro.tpr_at_1_fpr, macro.tpr_at_01_fpr))
        yield MACRO, _figure(macro.auc), *([NONE] * 5), _interval(macro.auc_interval), *rates


def _confusion(metrics: Metrics) -> Sequence[Row]:
    """Returns what a threshold that was asked for calls the images of each label."""
    if (one := metrics.confusion) is None:
        return []
    return [
        ("real", *map(_thousands, (one.real_as_real, one.real_as_fake))),
        ("fake", *map(_thousands, (one.fake_as_real, one.fake_as_fake))),
    ]


def _comparisons(run: Run) -> Iterator[tuple[str, list[Row]]]:
    """Yields for each other run a caption, and a row for each figure."""
    for comparison in run.comparisons:
        heading, counts, *_ = comparison_lines(comparison)
        rows = [tuple(row[2:]) for row in comparison_rows(comparison)]
        yield f"{heading}: {counts.strip()}", rows


def _video(video: VideoVerdict) -> Row:
    """Returns the row of a video."""
    truth = "" if video.label is None else LABELS[video.label]
    if video.fake_probability is None:
        return (video.path, truth, NONE, NONE, "0", _thousands(len(video.gaps)), video.error or "")
    times = ", ".join(clock(one.time) for one in video.most_fake)
    return (
        video.path,
        truth,
        LABELS[video.prediction],
        _figure(video.fake_probability),
        _thousands(video.frames),
        _thousands(len(video.gaps)),
        times,
    )


def _wanted_frames(metrics: Metrics) -> Iterator[WantedFrame]:
    """Yields the frames among the mistakes, and those under the curves of videos."""
    for outcome in metrics.mistakes:
        if outcome.video is not None and outcome.frame is not None:
            yield WantedFrame(outcome.video, outcome.frame, SIDE)
    for video in metrics.video_mistakes:
        for one in _strip(video):
            if one.frame is not None:
                yield WantedFrame(video.path, one.frame, STRIP_SIDE)


def _strip(video: VideoVerdict) -> list[Sighting]:
    """Returns the frames to show of a video: from its first to its last, the most fake among them.

    The most fake one takes the place of the one that is nearest to it.
    """
    curve = video.curve
    count = min(STRIP, len(curve))
    places = [round(i * (len(curve) - 1) / max(count - 1, 1)) for i in range(count)]
    for one in video.most_fake[:1]:
        peak = curve.index(one)
        nearest = min(range(count), key=lambda i: abs(places[i] - peak))
        places[nearest] = peak
    return [curve[place] for place in places]


def _speed(metrics: Metrics, totals: Totals) -> Iterator[Row]:
    if totals.seconds_wall is None:
        return
    yield "Rate", f"{totals.images_per_second:.1f} images a second"
    if metrics.latency is not None:
        latency = metrics.latency
        times = {"p50": latency.p50, "p95": latency.p95, "p99": latency.p99}
        yield "Latency", ", ".join(f"{name} {1000 * t:,.0f} ms" for name, t in times.items())
    yield "Time", f"{totals.seconds_wall:,.1f} s"
    yield "Repeated requests", _thousands(totals.retries)


def _failures(metrics: Metrics) -> Sequence[Row]:
    """Returns how many images failed by kind, the most frequent kinds by themselves."""
    kinds = sorted(metrics.failed.items(), key=lambda kind: -kind[1])
    rows = [(kind, _thousands(images)) for kind, images in kinds[:MAX_FAILURES]]
    if rest := sum(images for _, images in kinds[MAX_FAILURES:]):
        rows.append(("other kinds", _thousands(rest)))
    return rows


def _card(totals: Totals) -> Iterator[Row]:
    yield "Asked for", totals.model
    yield from ((name, str(value or "none")) for name, value in totals.card.items())
    yield "FAKE above", "not known" if totals.threshold is None else f"{totals.threshold:g}"
    if totals.levels["held_out_auc"] is not None:
        auc, images = totals.levels["held_out_auc"], totals.levels["held_out_images"]
        yield "Head's AUC", f"{auc:.4f}, on {images:,} images held out from its training"
    if totals.levels["false_alarms"] is not None:
        images = totals.levels["calibrated_by"]
        yield "False alarms", f"{100 * totals.levels['false_alarms']:g} %, by {images} real images"
    if totals.server is not None:
        yield "Server", totals.server
