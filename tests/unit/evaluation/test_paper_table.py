"""Tables for papers: what Markdown and LaTeX show is what stands in the run."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from deepfake_tools.evaluation.figures import Difference, PairedComparison
from deepfake_tools.evaluation.metrics import measure
from deepfake_tools.evaluation.outcomes import Outcome, Totals
from deepfake_tools.evaluation.paper_table import write_table
from deepfake_tools.evaluation.results_file import Run
from deepfake_tools.text_table import latex_cell, markdown_cell
from markdown_it import MarkdownIt

HOSTILE = r"a_b*c* |x| 50% $1 #{y}~^ \textbf & <b>`q`</b> [l](u) ![i](j) 1. -2 &amp; 'z' a--b"
COMPARED = PairedComparison(
    *("old_1.json", "new|2.json", 40, 60, 0, 0, 0, 0),
    Difference(0.7, 0.8, (0.05, 0.15), 0.00001),
    Difference(0.6, 0.65, None, None),
    *(3, 8, True),
)


def run_of(folder: str = HOSTILE) -> Run:
    rows = [("real", 0, 0.1), ("real", 0, 0.6), (folder, 1, 0.5), (folder, 1, 0.9), ("b", 1, 0.7)]
    outcomes = [
        Outcome(i, f"{i}.png", label, folder, int(score > 0.5), score, 0.1)
        for i, (folder, label, score) in enumerate(rows)
    ]
    totals = Totals(None, None, 0, "evaluate.py", None, "m", None)
    return Run(len(outcomes), lambda: outcomes, measure(outcomes), totals)


def rendered(text: str) -> list[list[list[str]]]:
    """The tables that a reader sees: for each its rows, for each its cells."""
    tables: list[list[list[str]]] = []
    inside = False
    for token in MarkdownIt("commonmark").enable("table").parse(text):
        if token.type == "table_open":
            tables.append([])
        elif token.type == "tr_open":
            tables[-1].append([])
        elif token.type in ("th_open", "td_open"):
            inside = True
        elif token.type == "inline" and inside:
            kinds = {child.type for child in token.children or []}
            assert kinds <= {"text", "text_special"}, kinds
            tables[-1][-1].append("".join(child.content for child in token.children or []))
            inside = False
    return tables


def set_in_latex(text: str) -> list[list[str]]:
    """The cells of the tabulars in a text, as they are set."""
    words = {
        "textbackslash": "\\",
        "textasciitilde": "~",
        "textasciicircum": "^",
        "textless": "<",
        "textgreater": ">",
        "textbar": "|",
    }
    rows = []
    for line in text.splitlines():
        if not line.endswith(r" \\"):
            continue
        cells = re.split(r"(?<!\\) & ", line.removesuffix(r" \\"))
        rows.append(
            [
                re.sub(
                    r"\\([a-z]+)\{\}|\\([&%$#_{}])",
                    lambda m: words.get(m[1], m[2]),
                    re.sub(r"(?<!\\)--", "\N{EN DASH}", cell).replace("-{}", "-"),
                )
                for cell in cells
            ]
        )
    return rows


@pytest.mark.parametrize("ending", ["md", "tex"])
def test_a_table_shows_each_generator_their_mean_and_all(tmp_path: Path, ending: str):
    run = run_of()
    write_table(tmp_path / f"t.{ending}", run)
    text = (tmp_path / f"t.{ending}").read_text()
    rows = rendered(text)[0] if ending == "md" else set_in_latex(text)
    header, first, second, mean, everything = rows
    assert header[:4] == ["Fake images", "Images", "AUC", "95 % interval"]
    low, high = run.metrics.folders[1].auc_interval or (0, 0)
    # 0.9 and 0.7 are above both real images, 0.5 above one.
    assert first == [HOSTILE, "2", "0.7500", f"{low:.4f} to {high:.4f}", "0.5000", "0.5000"]
    assert second[:3] == ["b", "1", "1.0000"]
    assert mean[:3] == ["Macro average", "-", "0.8750"]
    assert everything[:3] == ["All", "3", "0.8333"]


@pytest.mark.parametrize("ending", ["md", "tex"])
def test_comparisons_have_a_table_of_their_own(tmp_path: Path, ending: str):
    write_table(tmp_path / f"t.{ending}", replace(run_of("a"), comparisons=[COMPARED]))
    text = (tmp_path / f"t.{ending}").read_text()
    rows = rendered(text)[1] if ending == "md" else set_in_latex(text)[5:]
    name = "new|2.json against old_1.json"
    assert rows[1:] == [
        [name, "100", "AUC", "0.7000", "0.8000", "+0.1000", "+0.0500 to +0.1500", "< 0.0001"],
        [name, "100", "Accuracy", "0.6000", "0.6500", "+0.0500", "-", "-"],
    ]


def test_a_latex_table_is_one_tabular_with_a_column_for_each_cell(tmp_path: Path):
    write_table(tmp_path / "t.tex", run_of())
    lines = (tmp_path / "t.tex").read_text().splitlines()
    assert lines[0] == r"\begin{tabular}{lrrrrr}"
    assert lines[-1] == r"\end{tabular}"
    assert all(len(row) == 6 for row in set_in_latex("\n".join(lines)))


@pytest.mark.parametrize("char", [chr(code) for code in range(32, 127)])
def test_every_printable_character_is_shown_as_it_is(char: str):
    cell = f"a{char}b {char}".strip()
    shown = rendered(f"| h |\n| --- |\n| {markdown_cell(cell)} |\n")
    assert shown[0][1] == [" ".join(cell.split())]
    assert set_in_latex(latex_cell(cell) + r" \\") == [[" ".join(cell.split())]]


def test_a_line_break_breaks_no_row():
    assert markdown_cell("a\nb") == latex_cell("a\nb") == "a b"
