"""Texts in, HTML out in which no text is taken for markup."""

import html
import unicodedata
from collections.abc import Sequence

VOID = ("img", "meta")


class Html(str):
    """A string that is HTML already; every other string is escaped on its way in."""

    __slots__ = ()


def element(name: str, /, *children: str, **attributes: str | None) -> Html:
    """Returns an element.

    >>> element("p", "1 < 2", class_="note")
    '<p class="note">1 &lt; 2</p>'

    Args:
        name: Its tag.
        children: Elements, or texts, which are escaped.
        attributes: Their values are escaped; None leaves one out. `class_` and `aria_label` stand
            for class and aria-label.
    """
    opened = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(shown(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in VOID:
        return Html(f"<{name}{opened}>")
    return Html(f"<{name}{opened}>{join(*children)}</{name}>")


def join(*parts: str) -> Html:
    """Returns the parts one after the other, escaping those that are not HTML yet."""
    return Html("".join(p if isinstance(p, Html) else html.escape(shown(p)) for p in parts))


def shown(text: str) -> str:
    """Replaces what would not be seen as it stands: controls, turned directions, broken bytes.

    File names and what a server says may hold anything.
    """
    return "".join(
        char if unicodedata.category(char)[0] not in "CZ" or char == " " else _stand_in(char)
        for char in text
    )


def _stand_in(char: str) -> str:
    return " " if char.isspace() else "\N{REPLACEMENT CHARACTER}"


def table(caption: str, header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> Html:
    """Returns a table that scrolls by itself on a narrow screen; its first column names the rows.

    Args:
        caption: What it shows, for those who cannot see it.
        header: Names of the columns.
        rows: A cell for each column.
    """
    head = element("tr", *(element("th", name, scope="col") for name in header))
    body = (
        element(
            "tr",
            element("th", element("bdi", first), scope="row"),
            *(element("td", cell) for cell in rest),
        )
        for first, *rest in rows
    )
    return element(
        "div",
        element(
            "table",
            element("caption", caption),
            element("thead", head),
            element("tbody", *body),
        ),
        class_="scroll",
        tabindex="0",
        role="region",
        aria_label=caption,
    )
