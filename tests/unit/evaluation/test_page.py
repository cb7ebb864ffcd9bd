import pytest
from deepfake_tools.evaluation.page import Html, element, join, shown, table


def test_texts_are_escaped_and_elements_are_not():
    inner = element("b", "1 < 2")
    assert element("p", inner, ' & "so on"') == "<p><b>1 &lt; 2</b> &amp; &quot;so on&quot;</p>"
    assert join("<", Html("<br>")) == "&lt;<br>"


def test_an_attribute_cannot_be_left():
    made = element("img", src="a.png", alt='"><script>alert(1)</script>')
    assert made == ('<img src="a.png" alt="&quot;&gt;&lt;script&gt;alert(1)&lt;/script&gt;">')


def test_names_of_attributes():
    assert element("div", class_="a", aria_label="b", id=None) == (
        '<div class="a" aria-label="b"></div>'
    )
    assert element("meta", name="viewport") == '<meta name="viewport">'


def test_elements_put_together_stay_elements():
    assert isinstance(element("p"), Html)
    assert isinstance(join("a", "b"), Html)


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("Ünïcode 名前.jpg", "Ünïcode 名前.jpg"),
        ("two\nlines\tand a tab", "two lines and a tab"),
        ("evil\u202egnp.exe", "evil\ufffdgnp.exe"),
        ("\x00\x1b[31mred", "\ufffd\ufffd[31mred"),
        ("not UTF-8: \udcff", "not UTF-8: \ufffd"),
        ("ideographic\u3000space", "ideographic space"),
    ],
)
def test_what_would_not_be_seen_as_it_stands_is_replaced(text: str, seen: str):
    assert shown(text) == seen
    assert element("p", text) == f"<p>{seen}</p>"


def test_a_table_says_what_it_shows_and_what_names_its_rows():
    made = table("Some <figures>", ("Name", "AUC"), [("a&b", "0.5")])
    assert "<caption>Some &lt;figures&gt;</caption>" in made
    assert '<th scope="col">Name</th><th scope="col">AUC</th>' in made
    assert '<th scope="row"><bdi>a&amp;b</bdi></th><td>0.5</td>' in made
    assert 'tabindex="0" role="region" aria-label="Some &lt;figures&gt;"' in made
