"""Tables of plain text: cells of a column stand below one another."""

import textwrap
from collections.abc import Sequence
from itertools import zip_longest


def table(rows: Sequence[Sequence[str]], *, numbers_right: bool = True) -> str:
    """Aligns columns: those of numbers to the right, unless told otherwise."""
    columns = list(zip(*rows, strict=True))
    widths = [max(map(len, column)) for column in columns]
    numeric = [
        numbers_right and all(cell[:1].isdigit() or not cell for cell in column[1:])
        for column in columns
    ]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, numeric, strict=True)
        ).rstrip()
        for row in rows
    )


def wrapped_table(rows: Sequence[Sequence[str]], widths: Sequence[int]) -> str:
    """Aligns columns that are no wider than this, of cells that go on in the next line.

    Args:
        rows: The first one is the header.
        widths: Of each column, in characters.
    """
    lines = []
    for row in rows:
        cells = [textwrap.wrap(cell, width) for cell, width in zip(row, widths, strict=True)]
        for parts in zip_longest(*cells, fillvalue=""):
            padded = (part.ljust(width) for part, width in zip(parts, widths, strict=True))
            lines.append("  ".join(padded).rstrip())
    return "\n".join(lines)
