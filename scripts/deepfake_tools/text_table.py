"""Tables of plain text: cells of a column stand below one another."""

from collections.abc import Sequence


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


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """Forms a table in Markdown, whose first row is the header."""
    header, *body = rows
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), *body))
