"""Tables of plain text: cells of a column stand below one another."""

import re
from collections.abc import Sequence

from deepfake_tools.errors import one_line


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


MARKDOWN_SIGNS = re.compile(r"([\\`*_\[\]<>|~&])")
LATEX_SIGNS = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
}


def markdown_cell(text: str) -> str:
    r"""Returns a text as Markdown shows it to the letter, in one line.

    >>> print(markdown_cell("fake|v1_*"))
    fake\|v1\_\*
    """
    return MARKDOWN_SIGNS.sub(r"\\\1", one_line(text, len(text)))


def latex_cell(text: str) -> str:
    r"""Returns a text as LaTeX sets it to the letter, in one line.

    >>> print(latex_cell("50 %_a"))
    50 \%\_a
    """
    cell = "".join(LATEX_SIGNS.get(char, char) for char in one_line(text, len(text)))
    # Two hyphens in a row, as served names have, would be set as one dash.
    return re.sub("-(?=-)", "-{}", cell)


def latex_table(rows: Sequence[Sequence[str]]) -> str:
    """Forms a `tabular`, which needs no package: names to the left, all else to the right."""
    header, *body = ([latex_cell(cell) for cell in row] for row in rows)
    lines = [f"{' & '.join(row)} \\\\" for row in body]
    columns = "l" + "r" * (len(header) - 1)
    return "\n".join(
        [
            f"\\begin{{tabular}}{{{columns}}}",
            "\\hline",
            f"{' & '.join(header)} \\\\",
            "\\hline",
            *lines,
            "\\hline",
            "\\end{tabular}",
        ]
    )
