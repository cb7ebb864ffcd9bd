"""The decision on a card: its table, its p-values, what contradicts itself, what it costs."""

import json
import time
from collections.abc import Callable

import msgspec
import numpy as np
import pytest
from clip_deepfake.card import Card, parse_card
from clip_deepfake.decision import (
    EXACT_RANKS,
    FINENESS,
    MOST_RANKS,
    Decision,
    RealImages,
    kept_ranks,
    parse_decision,
    tail_rank,
    watched_rates,
)
from clip_deepfake.errors import LoadError
from clip_deepfake.questions import Question
from clip_deepfake.verdicts import Verdict, decided

from tests.unit.stand_in_engine import StandInEngine, image, worker_of


def decision_of(
    margins: np.ndarray, detector: str = "0" * 64, alpha: float = 0.01, unsure: float | None = 0.2
) -> Decision:
    ascending = np.sort(margins).tolist()
    images = len(ascending)
    ranks = kept_ranks(images, watched_rates(alpha, unsure))
    level = ascending[images - tail_rank(alpha, images)]
    band = level if unsure is None else ascending[images - tail_rank(unsure, images)]
    reals = RealImages(images, "1" * 64)
    kept = [ascending[images - rank] for rank in ranks]
    return Decision(1, detector, alpha, level, band, unsure, "2026-01-02", reals, None, ranks, kept)


def exact_rate(margins: np.ndarray, margin: float) -> float:
    return (1 + (margins >= margin).sum()) / (len(margins) + 1)


@pytest.mark.parametrize("images", [100, 999, 20_000])
@pytest.mark.parametrize("digits", [15, 1], ids=["distinct", "tied"])
def test_the_share_is_exact_where_it_matters_and_never_too_small(images: int, digits: int) -> None:
    rng = np.random.default_rng(images)
    margins = rng.normal(0, 1, images).round(digits)
    decision = decision_of(margins)
    asked = [*rng.choice(margins, 500), *rng.normal(0, 2, 500), margins.max(), margins.min()]
    for margin in map(float, asked):
        found, exact = decision.false_alarm_rate(margin), exact_rate(margins, margin)
        assert found >= exact
        assert found <= exact * (1 + 1 / FINENESS)
        if exact * (images + 1) <= EXACT_RANKS:
            assert found == exact
        for rate in (0.01, 0.05, 0.1, 0.2):
            assert (found <= rate) == (exact <= rate)


@pytest.mark.parametrize("images", [100, 999, 20_000])
def test_the_share_and_the_decision_agree(images: int) -> None:
    rng = np.random.default_rng(5)
    decision = decision_of(rng.normal(0, 1, images).round(2))
    for margin in rng.normal(0, 2, 1000).round(2).tolist():
        rate = decision.false_alarm_rate(margin)
        expected = "FAKE" if rate <= 0.01 else "UNSURE" if rate <= 0.2 else "REAL"
        assert decision.rule(margin) == expected


def test_a_table_of_any_number_of_images_is_small() -> None:
    for images in (100, 10_000, 10**6, 10**9):
        ranks = kept_ranks(images, watched_rates(0.013, 0.21))
        assert len(ranks) <= MOST_RANKS
        margins = np.sort(-np.random.default_rng(0).normal(-10, 3, len(ranks)) * np.pi).tolist()
        level = margins[ranks.index(tail_rank(0.013, images))]
        band = margins[ranks.index(tail_rank(0.21, images))]
        reals = RealImages(images, "1" * 64)
        decision = Decision(
            1, "0" * 64, 0.013, level, band, 0.21, "2026-01-02", reals, None, ranks, margins
        )
        assert len(decision.to_json()) < 1 << 16
        # On a card each line is indented once more.
        assert len(msgspec.json.format(msgspec.json.encode({"decision": decision}))) < 1 << 16


EDITS: dict[str, Callable[[dict], object]] = {
    "threshold": lambda d: d.update(fake_above=d["fake_above"] + 1),
    "rate": lambda d: d.update(false_alarms=0.5),
    "too small a rate": lambda d: d.update(false_alarms=0.001),
    "count": lambda d: d["reals"].update(images=d["reals"]["images"] * 10),
    "order": lambda d: d["margins"].reverse(),
    "a margin less": lambda d: d["margins"].pop(),
    "ranks": lambda d: d["ranks"].__setitem__(0, 7),
    "band above": lambda d: d.update(real_up_to=d["fake_above"] + 1),
    "band": lambda d: d.update(real_up_to=d["real_up_to"] - 1),
    "band without its rate": lambda d: d.update(unsure=None),
    "no number": lambda d: d.update(fake_above="NaN"),
    "infinite": lambda d: d["margins"].__setitem__(-1, 1e999),
    "missed": lambda d: d.update(fakes={"images": 3, "missed": 4, "sha256": "2" * 64}),
    "unknown": lambda d: d.update(more=1),
    "rate of nothing": lambda d: d.update(false_alarms=0),
}


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_a_file_that_contradicts_itself_is_refused(edit: Callable[[dict], object]) -> None:
    decision = decision_of(np.random.default_rng(0).normal(0, 1, 500))
    content = json.loads(decision.to_json())
    assert parse_decision(json.dumps(content).encode()) == decision
    edit(content)
    with pytest.raises(LoadError, match=r"calibrate\.py"):
        parse_decision(json.dumps(content).encode())


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b"\xff", b"[" * 100_000])
def test_what_is_no_decision_is_refused(data: bytes) -> None:
    with pytest.raises(LoadError, match=r"calibrate\.py"):
        parse_decision(data)


def calibrated(card: Card) -> Card:
    margins = np.linspace(0, 1, 200)
    return msgspec.structs.replace(card, decision=decision_of(margins, card.fingerprint()))


def answer_of(card: Card) -> dict:
    worker = worker_of(card, StandInEngine())
    (answer,) = worker.answer([Question({"data": image(255)})]).answers
    return json.loads(answer.body)


def test_a_decision_adds_to_an_answer_and_changes_nothing_else(small_card: Card) -> None:
    plain, decided_on = answer_of(small_card), answer_of(calibrated(small_card))
    assert decided_on.pop("decision") == "FAKE"
    # As fake as the most fake of 200, and itself.
    assert decided_on.pop("false_alarm_rate") == 2 / 201
    assert decided_on["detector"].pop("false_alarms") == 0.01
    assert decided_on["detector"].pop("calibrated_by") == 200
    assert decided_on == plain
    assert not {"decision", "false_alarm_rate"} & plain.keys()


def test_a_card_with_the_decision_of_another_detector_is_refused(small_card: Card) -> None:
    card = calibrated(small_card)
    assert parse_card(card.to_json()) == card
    other = json.loads(card.to_json())
    other["files"]["encoder.safetensors"] = "1" * 64
    with pytest.raises(LoadError, match="another detector"):
        parse_card(json.dumps(other).encode())


def test_what_decides_the_margins_decides_the_fingerprint(small_card: Card) -> None:
    change = msgspec.structs.replace
    same = [
        change(small_card, name="other", version="2"),
        change(small_card, head=change(small_card.head, threshold=0.9, description="other")),
        change(small_card, files=small_card.files | {"encoder.xml": "2" * 64}),
    ]
    others = [
        change(small_card, files={"encoder.safetensors": "1" * 64}),
        change(small_card, files=small_card.files | {"head.safetensors": "1" * 64}),
        change(small_card, head=change(small_card.head, fake_indices=(0,))),
        change(small_card, head=change(small_card.head, l2_normalize=True)),
        change(small_card, preprocessing=change(small_card.preprocessing, mean=(0.0, 0.0, 0.0))),
    ]
    assert {card.fingerprint() for card in same} == {small_card.fingerprint()}
    found = {card.fingerprint() for card in others}
    assert len(found | {small_card.fingerprint()}) == len(others) + 1


def test_a_decision_takes_less_than_a_twentieth_of_a_millisecond() -> None:
    decision = decision_of(np.random.default_rng(0).normal(0, 1, 100_000))
    verdict = Verdict("REAL", 0, 0.5, 0.5, 0.1, (0.1,))
    rounds, best = 1000, float("inf")
    for _ in range(5):
        begun = time.perf_counter()
        for _ in range(rounds):
            decided(verdict, decision)
        best = min(best, time.perf_counter() - begun)
    assert best / rounds < 5e-5
    print(f"{1e6 * best / rounds:.1f} us a verdict")
