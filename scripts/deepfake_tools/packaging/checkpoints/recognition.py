"""Recognises a checkpoint: which family its tensors fit, or what does not fit."""

import re
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import Tensor

from deepfake_tools.packaging.checkpoints.contents import COUNTER
from deepfake_tools.packaging.checkpoints.families import FAMILIES, Family, gend_word
from deepfake_tools.packaging.checkpoints.shapes import FIRST_LAYER, Dimension, Shape
from deepfake_tools.packaging.checkpoints.unsupported import find_unsupported
from deepfake_tools.packaging.encoders import FLOATS
from deepfake_tools.packaging.hub import BuildError

EVERYWHERE = ("*position_ids", COUNTER)
"""Patterns of what any family's file may hold and no detector needs."""

LISTED = 4
"""Names of one kind in an error; more are counted."""


@dataclass(frozen=True)
class Fit:
    """How a file's tensors compare with a family's.

    Attributes:
        family: the row of the table.
        layers: of the vision tower; 0 where there is none.
        sizes: what most of the tensors say that each is.
        wanted: how many tensors the family has.
        left_out: names that the detector knowingly goes without.
        missing: names, each with the shape that is wanted.
        extra: names, each with its shape.
        misshapen: names, each with both shapes.
    """

    family: Family
    layers: int
    sizes: Mapping[str, int]
    wanted: int
    left_out: tuple[str, ...]
    missing: tuple[str, ...]
    extra: tuple[str, ...]
    misshapen: tuple[str, ...]

    @property
    def faults(self) -> int:
        """How many tensors do not fit."""
        return len(self.missing) + len(self.extra) + len(self.misshapen)

    def is_near(self, tensors: int) -> bool:
        """Whether a file of this many tensors is likely to be meant for the family."""
        present = self.wanted - len(self.missing)
        return 2 * present >= self.wanted and self.faults <= max(tensors // 2, 2)

    def describe_faults(self) -> str:
        """What does not fit, in one line."""
        kinds = ("missing", self.missing), ("extra", self.extra), ("misshapen", self.misshapen)
        return "; ".join(f"{kind}: {_few(names)}" for kind, names in kinds if names)


def recognise(file: str, tensors: Mapping[str, Tensor], settings: Mapping[str, object]) -> Fit:
    """Finds the family that every tensor of a checkpoint fits.

    Args:
        file: name for errors.
        tensors: without wrappers.
        settings: its ``config.json``, where there is one; it tells apart families that differ in
            nothing else.

    Raises:
        BuildError: when there is none, with the nearest reading of what the file might be; or when
            its settings speak of another encoder.
    """
    unsupported = find_unsupported(tensors)
    if unsupported is not None:
        raise BuildError(f"{file} is {unsupported.title}: {unsupported.reason}")
    fits = [compare(family, tensors) for family in FAMILIES]
    exact = [fit for fit in fits if not fit.faults]
    for fit in exact:
        wanted = fit.family.setting
        if wanted is None or settings.get(wanted[0]) == wanted[1]:
            _check_backbone(file, fit.family, settings)
            return fit
    if exact:
        raise BuildError(_ambiguity(file, exact, settings))
    raise BuildError(_nearest_reading(file, tensors, fits))


def _check_backbone(file: str, family: Family, settings: Mapping[str, object]) -> None:
    """Refuses a file whose settings speak of another encoder than the one in it."""
    said = settings.get("backbone")
    if family.backbone is not None and said is not None and gend_word(said) != family.backbone:
        raise BuildError(
            f"{file} is {family.title}, and the config.json beside the file says that its backbone "
            f"is {str(said)[:80]!r}: they are not of one detector"
        )


def compare(family: Family, tensors: Mapping[str, Tensor]) -> Fit:
    """Compares names and shapes; a size is what most of the tensors say that it is."""
    layers = _count_layers(family, tensors)
    wanted = family.shapes(layers)
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    sizes = _measure(wanted, found) | dict(family.sizes)
    shapes = {name: _resolve(shape, sizes) for name, shape in wanted.items()}
    spare = (*EVERYWHERE, *family.left_out)
    surplus = sorted(found.keys() - wanted.keys())
    left_out = [name for name in surplus if any(fnmatchcase(name, sign) for sign in spare)]
    return Fit(
        family,
        layers,
        sizes,
        len(wanted),
        left_out=tuple(left_out),
        missing=tuple(f"{name} {_show(shapes[name])}" for name in wanted if name not in found),
        extra=tuple(f"{name} {_show(found[name])}" for name in surplus if name not in left_out),
        misshapen=tuple(
            f"{name} {misfit}"
            for name, shape in shapes.items()
            if name in tensors and (misfit := _misfit(tensors[name], shape))
        ),
    )


def _misfit(tensor: Tensor, shape: Shape) -> str:
    """What is wrong with a tensor; nothing is an empty text."""
    if tensor.dtype not in FLOATS:
        return f"of {tensor.dtype} instead of floating-point numbers of 16 bits or more"
    found = tuple(tensor.shape)
    return "" if found == shape else f"{_show(found)} instead of {_show(shape)}"


def _count_layers(family: Family, tensors: Mapping[str, Tensor]) -> int:
    first = next((name for name in family.shapes(1) if FIRST_LAYER in name), None)
    if first is None:
        return 0
    layers = first.partition(FIRST_LAYER)[0]
    # Three digits: a number out of a hostile file must not decide over memory.
    number = re.compile(re.escape(layers) + r"\.(\d{1,3})\.")
    return 1 + max((int(match[1]) for match in map(number.match, tensors) if match), default=0)


def _measure(wanted: Mapping[str, Shape], found: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    votes: defaultdict[str, Counter[int]] = defaultdict(Counter)
    for name, shape in wanted.items():
        sides = found.get(name, ())
        if len(sides) != len(shape):
            continue
        for size, side in zip(shape, sides, strict=True):
            if isinstance(size, Dimension):
                votes[size.name][side // size.times] += 1
    return {name: counter.most_common(1)[0][0] for name, counter in votes.items()}


def _resolve(shape: Shape, sizes: Mapping[str, int]) -> Shape:
    """Puts numbers in place of sizes; one that no tensor tells stays as it is."""
    return tuple(
        size.times * sizes[size.name]
        if isinstance(size, Dimension) and size.name in sizes
        else size
        for size in shape
    )


def _show(shape: Shape) -> str:
    return f"({', '.join(str(size) for size in shape)})"


def _few(names: tuple[str, ...]) -> str:
    more = len(names) - LISTED
    return ", ".join(names[:LISTED]) + (f" and {more} more" if more > 0 else "")


def _ambiguity(file: str, exact: list[Fit], settings: Mapping[str, object]) -> str:
    titles = " or ".join(fit.family.title for fit in exact)
    key = exact[0].family.setting[0] if exact[0].family.setting else ""
    said = f"says {settings[key]!r}" if key in settings else "is not there, or does not say"
    return (
        f"{file} fits {titles}; which of them stands under {key!r} in the config.json beside the "
        f"file, which {said}"
    )


def _nearest_reading(file: str, tensors: Mapping[str, Tensor], fits: list[Fit]) -> str:
    nearest = min(fits, key=lambda fit: fit.faults)
    if not nearest.is_near(len(tensors)):
        return (
            f"{file} is no detector that this project knows: it holds {len(tensors)} tensors, such "
            f"as {_few(tuple(sorted(tensors)))}; known are "
            f"{', '.join(dict.fromkeys(family.name for family in FAMILIES))}"
        )
    return (
        f"{file} is nearest to {nearest.family.title}, but does not fit, and nothing is loaded in "
        f"part; {nearest.describe_faults()}"
    )
