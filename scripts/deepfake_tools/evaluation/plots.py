"""The plots of the HTML report, as inline SVG by matplotlib; needs the extra `evaluate`."""

import io
import re
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from deepfake_tools.evaluation.figures import Bin, Histogram, Interval, Metrics, Point
from deepfake_tools.evaluation.perturbations import KINDS, PerturbedRun
from deepfake_tools.evaluation.videos import VideoVerdict
from deepfake_tools.videos.sampling import clock

# Stand-ins, each replaced by the page's own colour, so that a drawing follows dark mode and print.
INK, FAINT, REAL, FAKE, OTHER = "#010203", "#010204", "#010205", "#010206", "#010207"
COLOURS = {
    INK: "var(--ink)",
    FAINT: "var(--faint)",
    REAL: "var(--real)",
    FAKE: "var(--fake)",
    OTHER: "var(--other)",
}
MARKED = 100
"""Frames of a video that have a dot each."""

CURVES = ((FAKE, "-"), (REAL, "--"), (OTHER, "-."), (INK, ":"))
"""A colour and a line for each of several people: either alone tells them apart."""

STYLE: dict[Any, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": INK,
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # matplotlib brings it; the page has its own
    "font.size": 10,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "svg.fonttype": "none",  # text stays text: small, selectable, in the page's font
    "svg.hashsalt": "clip-deepfake",  # the same run draws the same bytes
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}


def roc(points: Sequence[Point]) -> Markup:
    """Draws the ROC curve over the line of chance."""

    def draw(axes: Axes) -> None:
        axes.plot([0, 1], [0, 1], color=INK, linewidth=0.8, linestyle=":", label="chance")
        axes.plot(*zip(*points, strict=True), color=FAKE, linewidth=1.8)
        axes.set(xlabel="false positive rate", ylabel="true positive rate")
        _unit_square(axes)
        axes.legend(loc="lower right")

    return _drawing("roc", "ROC curve: true positive rate over false positive rate", draw)


def precision_recall(points: Sequence[Point], fake_share: float) -> Markup:
    """Draws the precision-recall curve over the line of chance, the share of fakes."""

    def draw(axes: Axes) -> None:
        axes.axhline(fake_share, color=INK, linewidth=0.8, linestyle=":", label="chance")
        # A step holds the precision of its right end, as average precision counts it.
        axes.step(*zip(*points, strict=True), where="pre", color=FAKE, linewidth=1.8)
        axes.set(xlabel="recall", ylabel="precision")
        _unit_square(axes)
        axes.legend(loc="lower left")

    return _drawing("pr", "Precision-recall curve, fake as the positive class", draw)


def scores(histogram: Histogram, threshold: float | None) -> Markup:
    """Draws the scores of each class to its own highest bar, and says how many images it has.

    On one scale, be it of counts or of shares, a class of few images flattens the others.
    """
    classes = [
        ("real", histogram.real, REAL, "-"),
        ("fake", histogram.fake, FAKE, "--"),
        ("no label", histogram.unlabelled, OTHER, "-."),
    ]

    def draw(axes: Axes) -> None:
        for name, counts, colour, line in classes:
            if not sum(counts):
                continue
            heights = [count / max(counts) for count in counts]
            label = f"{name} ({sum(counts):,})"
            edges = [i / len(counts) for i in range(len(counts) + 1)]
            axes.stairs(heights, edges, fill=True, color=colour, alpha=0.25)
            axes.stairs(heights, edges, color=colour, linewidth=1.5, linestyle=line, label=label)
        if threshold is not None:
            axes.axvline(threshold, color=INK, linewidth=0.8, linestyle=":", label="threshold")
        axes.set(xlabel="probability of fake", ylabel="share of its highest bar", xlim=(0, 1))
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, 1.2), ncols=2, columnspacing=1)

    return _drawing("scores", "Histogram of the probability of fake, by true label", draw)


def calibration(bins: Sequence[Bin]) -> Markup:
    """Draws the reliability diagram, each bin's dot as large as its share of the images."""

    def draw(axes: Axes) -> None:
        most = max(b.images for b in bins)
        means, shares = [b.mean_probability for b in bins], [b.fake_share for b in bins]
        axes.plot([0, 1], [0, 1], color=INK, linewidth=0.8, linestyle=":", label="calibrated")
        axes.plot(means, shares, color=FAKE, linewidth=1)
        sizes = [8 + 72 * b.images / most for b in bins]
        axes.scatter(means, shares, sizes, color=FAKE, zorder=3)
        axes.set(xlabel="mean probability of fake", ylabel="share that is fake")
        _unit_square(axes)
        axes.legend(loc="upper left")

    return _drawing("reliability", "Reliability diagram in 15 bins", draw)


def robustness(plain: Metrics, runs: Sequence[PerturbedRun]) -> list[Markup]:
    """Draws AUC with its interval against strength, a drawing for each kind of perturbation.

    Each begins with the images as they are, and all have one scale.

    Args:
        plain: Figures of the images as they are; without an AUC nothing is drawn.
        runs: Those with an AUC are drawn.
    """
    if plain.auc is None:
        return []
    ranked = [run for run in runs if run.metrics.auc is not None]
    spans = [_span(plain), *(_span(run.metrics) for run in ranked)]
    limits = min(low for low, _ in spans) - 0.02, max(high for _, high in spans) + 0.02
    kinds = dict.fromkeys(run.perturbation.kind for run in ranked)
    return [
        _strengths(kind, plain, [run for run in ranked if run.perturbation.kind == kind], limits)
        for kind in kinds
    ]


def _strengths(kind: str, plain: Metrics, runs: list[PerturbedRun], limits: Interval) -> Markup:
    # The mildest first, so that every drawing is read from left to right.
    runs.sort(key=lambda run: run.perturbation.strength, reverse=KINDS[kind].milder_when_larger)
    steps = [plain, *(run.metrics for run in runs)]
    ticks = ["none", *(f"{run.perturbation.strength:g}" for run in runs)]

    def draw(axes: Axes) -> None:
        places = range(len(steps))
        axes.vlines(places, *zip(*map(_span, steps), strict=True), color=FAKE, linewidth=1)
        areas = [step.auc for step in steps if step.auc is not None]
        axes.plot(places, areas, color=FAKE, marker="o", markersize=5, linewidth=1.5)
        axes.set_xticks(places, ticks)
        axes.set(xlabel=f"{kind}: {KINDS[kind].unit}", ylabel="AUC", ylim=limits)
        axes.grid(visible=False, axis="x")

    return _drawing(f"auc-{kind}", f"AUC against the strength of {kind}", draw, height=2.5)


def video(name: str, verdict: VideoVerdict, threshold: float) -> Markup:
    """Draws a video's scores by time, a curve for each person, broken where there was no face.

    Args:
        name: Unique within the page.
        verdict: Of the video, with a few people at most.
        threshold: The video is FAKE above it.
    """

    def draw(axes: Axes) -> None:
        axes.axhline(threshold, color=INK, linewidth=0.8, linestyle=":")
        for place, track in enumerate(verdict.tracks):
            colour, line = CURVES[place % len(CURVES)] if track.speaks else (FAINT, "-")
            is_one_of_several = track.speaks and len(verdict.people) > 1
            label = f"face {track.number or 'of any'}" if is_one_of_several else None
            for stretch in track.stretches():
                axes.plot(
                    [one.time for one in stretch],
                    [one.fake_probability for one in stretch],
                    line,
                    color=colour,
                    label=label,
                    linewidth=1.5,
                    # What stands alone between two gaps has no line; many dots would hide it.
                    marker="." if len(stretch) == 1 or len(track.sightings) <= MARKED else "",
                    markersize=5,
                    zorder=3 if track.speaks else 2,
                )
                label = None  # the legend has each person once
        axes.set(ylabel="probability of fake", ylim=(-0.02, 1.02))
        axes.xaxis.set_major_formatter(lambda time, _: clock(max(time, 0)).removesuffix(".000"))
        axes.set_yticks([0, 0.5, 1])
        if len(verdict.people) > 1:
            axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3)

    return _drawing(name, "The video's probability of fake over time", draw, height=2, width=6)


def _span(metrics: Metrics) -> Interval:
    return metrics.auc_interval or (0.0, 1.0)


def _unit_square(axes: Axes) -> None:
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))


def _drawing(
    name: str,
    description: str,
    draw: Callable[[Axes], None],
    *,
    height: float = 3.3,
    width: float = 4.1,
) -> Markup:
    """Returns a drawing as an `svg` element that can stand in a page with others.

    Args:
        name: Unique within the page.
        description: For those who cannot see it.
        draw: Draws on the axes that it is given.
        height: In inches.
        width: In inches.
    """
    stream = io.StringIO()
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # a matplotlibrc of the user's is for other drawings
        matplotlib.rcParams.update(STYLE)
        figure = Figure(figsize=(width, height), layout="constrained")
        draw(figure.add_subplot())
        figure.savefig(stream, format="svg", transparent=True)
    drawing = stream.getvalue()
    # What only a file of its own needs: the prologue, the metadata, the namespaces, a size.
    drawing = drawing[drawing.index("<svg") :]
    drawing = re.sub(r"<metadata>.*?</metadata>", "", drawing, flags=re.DOTALL)
    view = re.search(r'viewBox="[^"]*"', drawing)
    label = f'<svg {view[0] if view else ""} role="img" aria-label="{description}">'
    drawing = re.sub(r"<svg[^>]*>", label, drawing, count=1)
    # Names are unique within one drawing only.
    drawing = re.sub(r'( id="|url\(#|href="#)', rf"\g<1>{name}-", drawing)
    for stand_in, colour in COLOURS.items():
        drawing = drawing.replace(stand_in, colour)
    return Markup(drawing)
