"""What was found on a GPU in, the Markdown of it out."""

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.gpu_checks import Equality, Halving
from benchmarks.gpu_speed import CONTENDERS, OURS, Speed


@dataclass(frozen=True)
class GpuReport:
    """A run.

    Attributes:
        machine: What it ran on, in a line.
        equalities: Of every model and precision.
        halving: What became of a pass without room.
        speeds: Of every model, contender and size.
        decoded_per_s: Images a second that all cores decode and resize.
        cores: How many they are.
    """

    machine: str
    equalities: Sequence[Equality]
    halving: Halving
    speeds: Sequence[Speed]
    decoded_per_s: float
    cores: int

    @property
    def holds(self) -> bool:
        """Whether everything that must be equal is."""
        return self.halving.holds and all(one.holds for one in self.equalities)

    def text(self) -> str:
        """Everything, as Markdown."""
        parts = [self.machine, self._equality_table(), self._halving_text(), self._speed_table()]
        return "\n\n".join([*parts, self._bound_text()])

    def _equality_table(self) -> str:
        rows = [
            (
                one.model,
                one.precision,
                f"{one.logit:.1e}",
                f"{one.probability:.1e}",
                "" if one.wanted is None else f"{one.wanted:.0e}",
                "" if one.wanted is None else ("yes" if one.holds else "NO"),
            )
            for one in self.equalities
        ]
        header = ("model", "GPU", "logit off CPU", "probability off", "at most", "holds")
        return markdown_table(header, rows)

    def _halving_text(self) -> str:
        one = self.halving
        return (
            f"{one.asked} pictures of {one.model} in a GPU without room for them: passes of "
            f"{_sizes(one.refused)} did not fit, passes of {_sizes(one.computed)} did; logits off "
            f"by {one.difference:.1e}: {'holds' if one.holds else 'DOES NOT HOLD'}"
        )

    def _speed_table(self) -> str:
        found = {(one.model, one.size, one.contender): one.images_per_s for one in self.speeds}
        keys = list(dict.fromkeys((one.model, one.size) for one in self.speeds))
        rows = [
            (model, str(size), *(_number(found.get((model, size, who))) for who in CONTENDERS))
            for model, size in keys
        ]
        return markdown_table(("images a second", "in a pass", *CONTENDERS), rows)

    def _bound_text(self) -> str:
        lines = []
        for model in dict.fromkeys(one.model for one in self.speeds):
            best = max(
                one.images_per_s
                for one in self.speeds
                if (one.model, one.contender) == (model, OURS)
            )
            bound = "decoding" if self.decoded_per_s < best else "the GPU"
            lines.append(
                f"{model}: {bound} is the bound: the GPU computes {best:.0f} images a second, "
                f"{self.cores} cores decode and resize {self.decoded_per_s:.0f}"
            )
        return "\n".join(lines)


def _sizes(sizes: Sequence[int]) -> str:
    return ", ".join(map(str, sizes)) or "none"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.0f}"


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Forms a table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
