"""HTML elements and the page of a report, which loads nothing and takes no text for markup."""

import html
import unicodedata
from collections.abc import Sequence

VOID = ("img", "meta")

# The page may load nothing: a report is passed on, and must not tell anybody that it is read.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"

STYLE = """
:root {
  color-scheme: light dark;
  --ground: #ffffff; --raised: #f5f6f8; --ink: #1c2128; --soft: #59636e; --faint: #dfe3e8;
  --real: #1f6fb2; --fake: #c2500f; --other: #6b7280; --alarm: #fff4e5;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ground: #15181c; --raised: #1e2329; --ink: #e4e8ec; --soft: #9aa5b1; --faint: #343b44;
    --real: #6cb2ee; --fake: #f0935a; --other: #a3acb8; --alarm: #3a2a14;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; padding: 1.5rem 1rem 3rem; max-width: 64rem;
  background: var(--ground); color: var(--ink);
  font: 1rem/1.5 system-ui, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
}
h1 { font-size: 1.5rem; line-height: 1.25; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 2.5rem 0 .75rem; }
time { white-space: nowrap; }
p { margin: .5rem 0; max-width: 44rem; }
.soft, figcaption, caption { color: var(--soft); font-size: .875rem; }
.note {
  margin: 1rem 0; padding: .75rem 1rem; max-width: none;
  background: var(--alarm); border-left: .25rem solid var(--fake);
}
.tiles, .plots, .mistakes { display: grid; gap: 1rem; }
.tiles { grid-template-columns: repeat(auto-fill, minmax(10rem, 1fr)); gap: .625rem; margin: 0; }
.tiles div { background: var(--raised); border-radius: .375rem; padding: .625rem .75rem; }
.tiles dt { color: var(--soft); font-size: .875rem; }
.tiles dd { margin: 0; font-size: 1.375rem; font-variant-numeric: tabular-nums; }
.tiles dd + dd { color: var(--soft); font-size: .8125rem; }
.tiles .main dd:nth-of-type(1) { font-size: 1.875rem; font-weight: 600; line-height: 1.3; }
.plots { grid-template-columns: repeat(auto-fit, minmax(min(100%, 22rem), 1fr)); }
figure { margin: 0; min-width: 0; }
.plots figure { max-width: 31rem; }
svg { display: block; width: 100%; height: auto; }
svg text { font-family: inherit !important; }
.scroll { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9375rem; }
caption { text-align: left; padding-bottom: .25rem; }
th, td { padding: .3rem .75rem .3rem 0; text-align: right; border-bottom: 1px solid var(--faint); }
th { font-weight: 500; color: var(--soft); white-space: nowrap; }
th:first-child { text-align: left; }
td { white-space: nowrap; }
tbody th {
  min-width: 9rem; max-width: 24rem; white-space: normal; overflow-wrap: anywhere;
  color: var(--ink); font-weight: 400;
}
.mistakes { grid-template-columns: repeat(auto-fill, minmax(8.5rem, 1fr)); }
.mistakes img, .mistakes .gone {
  display: block; width: 100%; height: 8.5rem; object-fit: contain; background: var(--raised);
}
.mistakes .gone { padding: 1rem; color: var(--soft); font-size: .875rem; }
.mistakes figcaption { overflow-wrap: anywhere; line-height: 1.35; padding-top: .25rem; }
.mistakes strong { color: var(--ink); display: block; }
.facts { display: grid; grid-template-columns: max-content 1fr; gap: .25rem 1rem; margin: 0; }
.facts dt { color: var(--soft); }
.facts dd { margin: 0; overflow-wrap: anywhere; }
pre {
  margin: 0; padding: .75rem 1rem; background: var(--raised); border-radius: .375rem;
  white-space: pre-wrap; overflow-wrap: anywhere; font-size: .875rem;
}
@media (max-width: 30rem) {
  table { font-size: .875rem; }
  th, td { padding-right: .5rem; }
}
@media print {
  :root {
    --ground: #fff; --raised: #f5f6f8; --ink: #000; --soft: #444; --faint: #ccc;
    --real: #1f6fb2; --fake: #c2500f; --other: #6b7280; --alarm: #fff;
  }
  body { max-width: none; padding: 0; font-size: .875rem; }
  .scroll { overflow: visible; }
  h2 { break-after: avoid; }
  figure, tr, .tiles div { break-inside: avoid; }
  .plots { grid-template-columns: 1fr 1fr; }
  .plots figure { max-width: 24rem; }
  .mistakes { grid-template-columns: repeat(5, 1fr); }
}
"""


class Html(str):
    """A string that is HTML already; every other string is escaped on its way in."""

    __slots__ = ()


def page(title: str, *content: str) -> str:
    """Returns a whole HTML document.

    Args:
        title: Of the browser's tab, and the page's first heading.
        content: What stands below the heading.
    """
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=POLICY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="referrer", content="no-referrer"),
        element("title", title),
        element("style", Html(STYLE)),
    )
    body = element("body", element("main", element("h1", title), *content))
    return join(Html("<!DOCTYPE html>\n"), element("html", head, body, lang="en")) + "\n"


def section(title: str, *content: str) -> Html:
    """Returns a part of the page under a heading."""
    return element("section", element("h2", title), *content)


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
