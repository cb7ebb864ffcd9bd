"""Medians in, a drawing of throughput by clients out."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, ScalarFormatter

from benchmarks.cells import Figures, Place, Way

# Okabe and Ito's colours, which people with any colour vision tell apart.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
MARKERS = "osD^vP"
STYLE: dict[Any, Any] = {
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.size": 10,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
}


def write_plot(path: Path, medians: Mapping[Place, Figures], title: str) -> None:
    """Draws a line for each served contender, and a dashed one for its own single process.

    Args:
        path: Of the PNG.
        medians: What was measured.
        title: Says of what model, on what machine.

    Raises:
        OSError: The file cannot be written.
    """
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # a matplotlibrc of the user's is for other drawings
        matplotlib.rcParams.update(STYLE)
        figure = Figure(figsize=(7.5, 4.5), layout="constrained")
        _draw(figure.add_subplot(), medians)
        figure.suptitle(title, fontsize=10)
        figure.savefig(path, dpi=150)


def _draw(axes: Axes, medians: Mapping[Place, Figures]) -> None:
    served = [place for place in medians if place.way is Way.SERVED]
    sizes = sorted({place.size for place in served})
    for number, contender in enumerate(dict.fromkeys(place.contender for place in served)):
        own = [place for place in served if place.contender == contender]
        colour = COLOURS[number % len(COLOURS)]
        axes.plot(
            [place.size for place in own],
            [medians[place].images_per_s for place in own],
            color=colour,
            marker=MARKERS[number % len(MARKERS)],
            label=f"{contender}, served",
        )
        for place, figures in medians.items():
            if place.contender == contender and place.way is Way.PROCESS:
                label = f"{contender}, one process"
                axes.axhline(figures.images_per_s, color=colour, linestyle="--", label=label)
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes)
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set(xlabel="clients", ylabel="images a second")
    axes.set_ylim(bottom=0)
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
