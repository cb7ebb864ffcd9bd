"""What a paired comparison says in words: on the terminal, and in the results file."""

from collections.abc import Iterator

from deepfake_tools.evaluation.figures import Difference, PairedComparison
from deepfake_tools.evaluation.video_lines import one_line_of


def comparison_lines(comparison: PairedComparison) -> Iterator[str]:
    """Yields what two runs were compared on, and how far they are apart."""
    one = comparison
    first, second = one_line_of(one.first), one_line_of(one.second)
    yield f"{second} against {first}"
    yield (
        f"  {one.real + one.fake} images that both have judged ({one.real} real, {one.fake} fake); "
        f"left out: {one.only_first} in the first alone, {one.only_second} in the second alone, "
        f"{one.unjudged} without one of the verdicts, {one.unlabelled} without a label"
    )
    if one.auc is not None:
        yield f"  AUC: {difference(one.auc)}, DeLong's test {chance(one.auc)}"
    yield (
        f"  Accuracy, each at its own threshold: {difference(one.accuracy)}, "
        f"{'exact ' if one.exact else ''}McNemar's test {chance(one.accuracy)} (right alone: the "
        f"first {one.first_alone} times, the second {one.second_alone})"
    )


def difference(figure: Difference) -> str:
    """Returns both values, and what is between them."""
    between = f"{figure.first:.4f} and {figure.second:.4f}, difference {figure.change:+.4f}"
    if figure.interval is None:
        return between
    return f"{between} (95% interval {signed(figure.interval)})"


def signed(interval: tuple[float, float]) -> str:
    """Returns an interval's ends with their signs."""
    return "{:+.4f} to {:+.4f}".format(*interval)


def chance(figure: Difference) -> str:
    """Returns the p-value as papers have it."""
    if figure.p is None:
        return "does not apply: no variance is to be seen"
    return "p < 0.0001" if figure.p < 0.0001 else f"p = {figure.p:.4f}"
