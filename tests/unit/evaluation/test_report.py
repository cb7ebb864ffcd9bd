import base64
import io
import random
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from deepfake_tools.evaluation.metrics import measure
from deepfake_tools.evaluation.outcomes import Outcome, Totals
from deepfake_tools.evaluation.perturbations import Perturbation, PerturbedRun
from deepfake_tools.evaluation.report import (
    TEMPLATE,
    _environment,
    format_report,
    write_report,
)
from deepfake_tools.evaluation.results_file import Run
from deepfake_tools.evaluation.videos import VideoScoring
from deepfake_tools.torchserve.answers import DetectorInfo
from deepfake_tools.videos import frames as video_frames
from jinja2 import UndefinedError
from PIL import Image

from tests.unit.evaluation.frames import clip, crowd, face, numbered, square, unreadable

HOSTILE = '"><script>alert(1)</script><img src=x onerror=alert(1)>'
DETECTOR = DetectorInfo(
    "openai/clip-vit-base-patch32", None, "1", "trained", "float32", "openvino", threshold=0.5
)
WRITTEN = datetime(2025, 3, 1, 12, 30, tzinfo=UTC)
TOTALS = Totals(
    seconds_wall=12.5,
    images_per_second=1234.5,
    retries=3,
    command="python scripts/client.py --image 'my faces' --report r.html",
    server="http://127.0.0.1:8080",
    model="openai/clip-vit-base-patch32",
    detector=DETECTOR,
)
VOID = {"meta", "img"}
FAILED = Outcome(0, "a.png", 1, "", None, None, 0.1, "timeout", "no answer")


class Page(HTMLParser):
    """A page taken apart: every element with its attributes, and the text outside <style>."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.style = ""
        self._text: list[str] = []
        self._open: list[str] = []
        self.feed(source)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" in self._open:
            self.style += data
        else:
            self._text.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self._text).split())

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]


def outcomes(
    paths: Sequence[str] = (), folders: Sequence[str] = ("real", "fake/a"), count: int = 60
) -> list[Outcome]:
    """Images in folders, every second one fake; the given paths are confident mistakes."""
    chance = random.Random(1)
    made = []
    for i in range(count):
        label = i % 2
        score = chance.betavariate(1 + label, 2 - label)
        folder = folders[i % len(folders)]
        made.append(Outcome(i, f"{i}.png", label, folder, int(score > 0.5), score, 0.1))
    for i, path in enumerate(paths, start=count):
        made.append(Outcome(i, path, 0, folders[0], 1, 0.999, 0.1))
    return made


def run_of(
    made: Sequence[Outcome], totals: Totals = TOTALS, perturbed: Sequence[PerturbedRun] = ()
) -> Run:
    return Run(len(made), lambda: made, measure(made), totals, perturbed=perturbed)


def page_of(run: Run) -> str:
    return format_report(run, WRITTEN)


def opened(
    made: Sequence[Outcome], totals: Totals = TOTALS, perturbed: Sequence[PerturbedRun] = ()
) -> Page:
    return Page(page_of(run_of(made, totals, perturbed)))


def perturbed(kind: str, strength: float, shift: float) -> PerturbedRun:
    worse = [
        replace(o, fake_probability=max(o.fake_probability - shift * (o.label or 0), 0))
        for o in outcomes()
        if o.fake_probability is not None
    ]
    return PerturbedRun(Perturbation(kind, strength), measure(worse))


RUNS = (
    perturbed("jpeg", 50, 0.3),
    perturbed("blur", 1, 0.1),
    perturbed("jpeg", 90, 0.05),
)


@pytest.fixture(scope="module")
def plain() -> str:
    """The page of 60 images in two folders."""
    return page_of(run_of(outcomes()))


@pytest.fixture(scope="module")
def with_perturbations() -> str:
    """The page of the same images, and of RUNS."""
    return page_of(run_of(outcomes(), perturbed=RUNS))


def test_the_page_asks_for_nothing_outside_itself(tmp_path: Path):
    path = tmp_path / "a.png"
    Image.new("RGB", (30, 20), "red").save(path)
    page = opened(outcomes([str(path)]), perturbed=RUNS)
    for tag, attributes in page.elements:
        assert tag not in ("script", "link", "iframe", "object", "embed", "base", "form")
        for name, value in attributes.items():
            assert not name.startswith("on")
            assert "http" not in value or name == "http-equiv"
            assert not re.search(r"url\((?!#)", value)
            if name in ("src", "href", "xlink:href"):
                assert value.startswith(("data:image/jpeg;base64,", "#"))
    assert not re.search(r"url\(|@import|http", page.style)
    (policy,) = [m["content"] for m in page.all("meta") if "http-equiv" in m]
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def test_what_files_and_servers_say_stays_text(tmp_path: Path):
    # A name as hostile as a file system lets it be: no slash.
    path = tmp_path / '"><img src=x onerror=alert(1)>.png'
    Image.new("RGB", (30, 20), "red").save(path)
    totals = replace(
        TOTALS,
        command=HOSTILE,
        server=HOSTILE,
        model=HOSTILE,
        detector=replace(DETECTOR, commit=HOSTILE, engine=HOSTILE),
    )
    made = outcomes([str(path)], folders=[HOSTILE, "b"])
    made.append(Outcome(99, "x", 1, "b", None, None, 0.1, HOSTILE, HOSTILE))
    plain, page = opened(outcomes([str(path)])), opened(made, totals)
    assert {tag for tag, _ in page.elements} <= {tag for tag, _ in plain.elements} | {"table"}
    # Title, heading, folder, kind of failure, model, two of the card's values, server, command.
    assert page.text.count(HOSTILE) == 9
    assert f"real image {path}" in [image["alt"] for image in page.all("img")]


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("Ünïcode 名前.jpg", "Ünïcode 名前.jpg"),
        ("two\nlines\tand a tab", "two lines and a tab"),
        ("evil\u202egnp.exe", "evil\ufffdgnp.exe"),
        ("\x00\x1b[31mred", "\ufffd\ufffd[31mred"),
        ("not UTF-8: \udcff", "not UTF-8: \ufffd"),
        ("ideographic\u3000space", "ideographic space"),
        ("{{ 7 * 7 }}{% raw %}", "{{ 7 * 7 }}{% raw %}"),
    ],
)
def test_what_would_not_be_seen_as_it_stands_is_replaced(text: str, seen: str):
    source = page_of(run_of([FAILED], replace(TOTALS, model=text, command=text)))
    assert f"<h1>Deepfake detection report: {seen}</h1>" in source
    assert f"<pre>{seen}</pre>" in source


def test_a_table_says_what_it_shows_and_what_names_its_rows():
    page = opened([replace(FAILED, error="<kind> & co")])
    (caption,) = [d["aria-label"] for d in page.all("div") if d.get("role") == "region"]
    assert caption == "Images that failed, by kind"
    assert f"{caption} Kind Images <kind> & co 1" in page.text
    assert [cell["scope"] for cell in page.all("th")] == ["col", "col", "row"]


def test_a_report_without_its_data_fails_instead_of_leaving_gaps():
    with pytest.raises(UndefinedError, match="'totals' is undefined"):
        _environment().get_template(TEMPLATE).render(metrics=measure([]))


def test_drawings_do_not_share_names(with_perturbations: str):
    page = Page(with_perturbations)
    names = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert [name for name, times in Counter(names).items() if times > 1] == []
    used = set()
    for _, attributes in page.elements:
        used.update(re.findall(r"url\(#([^)]*)\)", " ".join(attributes.values())))
        used.update(v[1:] for n, v in attributes.items() if n.endswith("href"))
    assert used
    assert used <= set(names)


def test_drawings_take_the_page_s_colours(with_perturbations: str):
    assert "#0102" not in with_perturbations
    # Else the colour would be matplotlib's own, and unreadable in dark mode.
    drawn = re.sub(r"<style>.*?</style>", "", with_perturbations, count=1, flags=re.DOTALL)
    assert set(re.findall(r"(?:fill|stroke): (#\w+)", drawn)) == set()


def test_drawings_say_what_they_show(with_perturbations: str):
    labels = [svg["aria-label"] for svg in Page(with_perturbations).all("svg")]
    assert [label.split(":")[0] for label in labels] == [
        "ROC curve",
        "Precision-recall curve, fake as the positive class",
        "Histogram of the probability of fake, by true label",
        "Reliability diagram in 15 bins",
        "AUC against the strength of jpeg",
        "AUC against the strength of blur",
    ]


def test_a_class_of_one_image_leaves_the_others_their_height():
    made = outcomes()
    made.append(replace(made[0], label=None))
    drawing = page_of(run_of(made)).split('aria-label="Histogram')[1].split("</svg>")[0]
    bars = re.findall(r'<path d="([^"]*)"[^>]*style="fill: var\(--(\w+)\); opacity', drawing)
    assert {colour for _, colour in bars} == {"real", "fake", "other"}
    tops = [min(map(float, re.findall(r"[ML] \S+ (\S+)", path))) for path, _ in bars]
    assert tops == pytest.approx([tops[0]] * len(bars))
    for label in ("real (30)", "fake (30)", "no label (1)"):
        assert f">{label}</text>" in drawing


def test_the_headline_has_every_figure_with_its_interval(plain: str):
    metrics = measure(outcomes())
    text = Page(plain).text
    assert metrics.auc_interval is not None
    low, high = metrics.auc_interval
    assert f"AUC {metrics.auc:.4f} {low:.4f} to {high:.4f} PR-AUC {metrics.pr_auc:.4f}" in text
    for name, value in (
        ("Equal error rate", metrics.eer),
        ("Equal error rate", metrics.eer_nearest),
        ("Accuracy", metrics.accuracy),
        ("Balanced accuracy", metrics.balanced_accuracy),
        ("TPR at 1 % FPR", metrics.tpr_at_1_fpr),
        ("TPR at 0.1 % FPR", metrics.tpr_at_01_fpr),
        ("Calibration error", metrics.ece),
    ):
        assert f"{name} {value:.4f}" in text
    assert "60 images judged: 30 real, 30 fake. 2025-03-01 12:30 UTC" in text


def test_video_auc_stands_there_only_with_videos(plain: str):
    assert "videos" not in Page(plain).text.split("Definitions")[0]
    frames = [
        replace(o, path=f"{'fake' if o.label else 'real'}/{i // 10:03}/{i:03}.png")
        for i, o in enumerate(outcomes())
    ]
    made = run_of(frames)
    assert f"Video AUC {made.metrics.video_auc:.4f} 12 videos" in Page(page_of(made)).text


def test_the_run_the_card_and_the_command(plain: str):
    text = Page(plain).text
    assert "Rate 1234.5 images a second Latency p50 100 ms, p95 100 ms, p99 100 ms" in text
    assert "Repeated requests 3" in text
    assert "commit none version 1 head trained precision float32 engine openvino" in text
    assert "FAKE above 0.5 Server http://127.0.0.1:8080" in text
    assert TOTALS.command in text


def test_a_head_that_was_trained_here_says_what_it_is_worth():
    known = replace(DETECTOR, held_out_auc=0.97124, held_out_images=1300)
    text = opened(outcomes(), replace(TOTALS, detector=known)).text
    assert "Head's AUC 0.9712, on 1,300 images held out from its training" in text


def test_an_untrained_head_is_said_in_words(plain: str):
    untrained = replace(TOTALS, detector=replace(DETECTOR, head="untrained"))
    assert "head is untrained: its predictions are chance" in opened(outcomes(), untrained).text
    assert "untrained" not in Page(plain).text


def test_without_labels_the_page_says_why_and_shows_the_scores():
    page = opened(
        [replace(o, label=None) for o in outcomes()],
        replace(TOTALS, detector=replace(DETECTOR, threshold=None)),
    )
    assert "no image has a true label" in page.text
    assert [svg["aria-label"].split()[0] for svg in page.all("svg")] == ["Histogram"]
    assert "60 without a label" in page.text


def test_a_run_in_which_everything_failed_has_a_page():
    page = opened([FAILED])
    assert "no image was judged" in page.text
    assert "Images that failed, by kind Kind Images timeout 1" in page.text
    assert page.all("svg") == []


def test_folders_with_their_auc():
    made = run_of(outcomes(folders=["real", "fake/a", "real", "fake/b"]))
    text = Page(page_of(made)).text
    for folder in made.metrics.folders:
        auc = "–" if folder.auc is None else f"{folder.auc:.4f}"  # noqa: RUF001 - as it is shown
        assert f" {folder.folder} {auc} {folder.accuracy:.4f}" in text


def test_thousands_of_folders_do_not_make_a_page_of_thousands_of_rows():
    text = opened(outcomes(folders=[f"v{i:04}" for i in range(500)], count=500)).text
    assert "the first 200 of 500, the results file has all" in text
    assert "v0199" in text
    assert "v0200" not in text


def test_one_folder_needs_no_table():
    assert opened(outcomes(folders=[""])).all("table") == []


def test_perturbations_have_a_row_each_and_a_drawing_for_each_kind(with_perturbations: str):
    page = Page(with_perturbations)
    plain = measure(outcomes()).auc
    assert plain is not None
    for run in RUNS:
        auc = run.metrics.auc
        assert auc is not None
        change = f"{auc - plain:+.4f}".replace("-", "\N{MINUS SIGN}")
        assert f"{run.perturbation} {auc:.4f} {change}" in page.text
    # The mildest first, whatever the order in which they were asked for.
    drawing = with_perturbations.split('aria-label="AUC against the strength of jpeg"')[1]
    ticks = re.findall(r">(none|90|50)</text>", drawing.split("</svg>")[0])
    assert ticks == ["none", "90", "50"]


def test_a_perturbation_without_auc_is_listed_and_not_drawn():
    failed = [replace(o, fake_probability=None, error="timeout") for o in outcomes()]
    run = PerturbedRun(Perturbation("noise", 5), measure(failed))
    page = opened(outcomes(), perturbed=[run])
    assert "noise=5 – – – – – – 60" in page.text  # noqa: RUF001 - as it is shown
    assert not [svg for svg in page.all("svg") if "strength" in svg["aria-label"]]


def test_without_an_auc_of_the_plain_images_there_is_nothing_to_draw_against():
    unlabelled = [replace(o, label=None) for o in outcomes()]
    page = opened(unlabelled, perturbed=RUNS)
    assert "jpeg=50" in page.text
    assert not [svg for svg in page.all("svg") if "strength" in svg["aria-label"]]


def test_mistakes_are_small_pictures_of_the_files(tmp_path: Path):
    path = tmp_path / "large.png"
    Image.new("RGB", (1200, 600), (200, 30, 40)).save(path)
    page = opened(outcomes([str(path)]))
    (image,) = page.all("img")
    with Image.open(io.BytesIO(base64.b64decode(image["src"].split(",")[1]))) as thumbnail:
        assert (thumbnail.format, thumbnail.size) == ("JPEG", (220, 110))
        colour = np.asarray(thumbnail).mean(axis=(0, 1))
    assert colour == pytest.approx([200, 30, 40], abs=4)
    assert f"real, scored 0.9990 {path}" in page.text


def test_a_picture_that_is_gone_leaves_its_name():
    page = opened(outcomes(["gone/a.png", "nul\0l.png"]))
    assert page.all("img") == []
    assert "cannot be read any more real, scored 0.9990 gone/a.png" in page.text


def test_large_and_detailed_mistakes_do_not_make_a_large_page(tmp_path: Path):
    noise = np.random.default_rng(0).integers(0, 256, (900, 900, 3), np.uint8)
    path = tmp_path / "noise.jpg"
    Image.fromarray(noise).save(path)
    source = page_of(run_of(outcomes([str(path)] * 100)))
    assert len(Page(source).all("img")) == 24
    assert len(source) < 1_000_000


def test_the_same_run_gives_the_same_page(plain: str):
    assert page_of(run_of(outcomes())) == plain


def test_the_page_replaces_an_older_one_and_leaves_nothing_else(tmp_path: Path):
    path = tmp_path / "r.html"
    path.write_text("old")
    made = run_of(outcomes(["not UTF-8 \udcff.png"]))
    write_report(path, made)
    written, formatted = (
        re.sub("<time.*?</time>", "", source, flags=re.DOTALL)
        for source in (path.read_text(encoding="utf-8"), page_of(made))
    )
    assert written == formatted
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_write_leaves_the_older_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "r.html"
    path.write_text("old")

    def full_disk(self: Path, target: Path) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full_disk)
    with pytest.raises(OSError, match="No space left"):
        write_report(path, run_of(outcomes()))
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def frame_picture(number: int) -> bytes:
    """A wide picture, grey by the frame's number."""
    stream = io.BytesIO()
    Image.new("RGB", (640, 320), (number, number, number)).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, list[int]]]:
    """Stands in for decoding; what was asked for, a call each. Frames from 200 on are broken."""
    calls: list[tuple[str, list[int]]] = []

    def read_frames(path: str, numbers: Sequence[int]) -> Iterator[tuple[int, bytes | Exception]]:
        calls.append((path, list(numbers)))
        for number in numbers:
            yield number, OSError("damaged") if number >= 200 else frame_picture(number)

    monkeypatch.setattr(video_frames, "read_frames", read_frames)
    return calls


def video_run(clips: Sequence[Sequence[Outcome]], *, all_faces: bool = False) -> Run:
    made, scoring = numbered(*clips), VideoScoring(all_faces=all_faces)
    metrics = measure(made, scoring)
    return Run(len(made), lambda: made, metrics, TOTALS, scoring=scoring)


def grey_of(image: dict[str, str]) -> tuple[tuple[int, int], float]:
    """The size of a picture of the page, and how grey it is."""
    data = base64.b64decode(image["src"].removeprefix("data:image/jpeg;base64,"))
    with Image.open(io.BytesIO(data)) as picture:
        return picture.size, float(np.asarray(picture).mean())


def test_a_wrong_video_has_a_curve_and_a_strip_of_its_frames(
    decoded: list[tuple[str, list[int]]],
):
    scores = [0.6, 0.7, 0.55, 0.8, 0.6, 0.65, 0.7, 0.99, 0.6, 0.6, 0.6, 0.6]
    run = video_run([clip("wrong.mp4", scores, 0), clip("right.mp4", [0.1, 0.2], 0)])
    page = Page(page_of(run))
    assert [svg["aria-label"] for svg in page.all("svg")][-1].startswith("The video's probability")
    # Frame 7 is the most fake one; each place is ten frames of the file.
    strip = [image for image in page.all("img") if image["alt"].startswith("frame at")]
    assert [image["alt"] for image in strip] == [
        f"frame at 00:{seconds:06.3f}" for seconds in (0, 1, 2, 3.5, 4.5, 5.5)
    ]
    for image, place in zip(strip, (0, 2, 4, 7, 9, 11), strict=True):
        size, grey = grey_of(image)
        assert size == (130, 65)
        assert grey == pytest.approx(10 * place, abs=2)
    assert "real, scored 0.6658" in page.text
    assert "right.mp4" not in page.text.split("Most confident mistakes among videos")[1]


def test_a_video_is_decoded_once_for_its_strip_and_for_its_worst_frames(
    decoded: list[tuple[str, list[int]]],
):
    run = video_run([clip("a.mp4", [0.9] * 12, 0), clip("b.mp4", [0.1, 0.2, 0.8], 0)])
    page = Page(page_of(run))
    assert decoded == [("a.mp4", [10 * i for i in range(12)]), ("b.mp4", [20])]
    large = [image for image in page.all("img") if image["alt"].startswith("real image")]
    assert len(large) == 13
    assert {grey_of(image)[0] for image in large} == {(220, 110)}
    assert "real image b.mp4@00:01.000" in [image["alt"] for image in large]


def test_frames_that_cannot_be_decoded_any_more_leave_their_places(
    decoded: list[tuple[str, list[int]]],
):
    page = Page(page_of(video_run([clip("a.mp4", [0.9] * 30, 0)])))
    pictures = [image for image in page.all("img") if image["alt"].startswith("frame at")]
    assert len(pictures) == 4  # of six; the last two are from frame 200 on
    assert "00:14.500 0.9000" in page.text


def test_a_video_that_is_gone_leaves_its_curve(monkeypatch: pytest.MonkeyPatch):
    def gone(path: str, numbers: Sequence[int]) -> Iterator[tuple[int, bytes | Exception]]:
        raise FileNotFoundError(path)

    monkeypatch.setattr(video_frames, "read_frames", gone)
    page = Page(page_of(video_run([clip("a.mp4", [0.9] * 3, 0)])))
    assert page.all("img") == []
    assert "The video's probability of fake over time" in page.all("svg")[-1]["aria-label"]
    assert "cannot be read any more real, scored 0.9000 a.mp4@00:00.000" in page.text


def test_videos_have_a_table_that_stays_short(decoded: list[tuple[str, list[int]]]):
    clips = [clip(f"{i:03}.mp4", [0.1 + 0.8 * (i % 2)] * 2, i % 2) for i in range(230)]
    text = Page(page_of(video_run([*clips, [unreadable("no.mp4")]]))).text
    assert "the first 200 of 231, the results file has all" in text
    assert "199.mp4 FAKE FAKE 0.9000 2 0 00:00.000" in text
    assert "200.mp4" not in text
    assert "Video AUC 1.0000 230 videos Video accuracy 1.0000" in text
    assert "Among them are the frames of 230 videos judged, 1 more have no verdict." in text


def test_twelve_long_videos_with_many_people_do_not_make_a_large_page(
    decoded: list[tuple[str, list[int]]],
):
    seen = [[face(square(300 * i, 100, 80), 0.9) for i in range(9)] for _ in range(300)]
    clips = [crowd(f"{i}.mp4", seen, 0) for i in range(13)]
    source = page_of(video_run(clips, all_faces=True))
    assert source.count('aria-label="The video') == 12
    assert len(source) < 2_000_000


def test_videos_of_hostile_names_stay_text(decoded: list[tuple[str, list[int]]]):
    page = Page(page_of(video_run([clip(f"{HOSTILE}.mp4", [0.9] * 3, 0)])))
    assert page.all("script") == []
    assert all("onerror" not in image for image in page.all("img"))
    assert f"{HOSTILE}.mp4" in page.text
