import signal
from collections.abc import Iterator

import pytest
from deepfake_tools.interrupts import (
    STOPS,
    Interruption,
    interrupt_on_stops,
    interrupt_once,
    reliable_interrupts,
    uninterrupted,
)


@pytest.fixture
def handlers() -> Iterator[None]:
    """Puts back how signals were handled."""
    before = {number: signal.getsignal(number) for number in STOPS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def swallow_an_interrupt() -> None:
    try:
        signal.raise_signal(signal.SIGINT)
    except KeyboardInterrupt:
        raise ValueError("what a library made of it") from None


def test_a_swallowed_interrupt_comes_out_all_the_same() -> None:
    with pytest.raises(KeyboardInterrupt), reliable_interrupts():
        swallow_an_interrupt()


def test_other_errors_pass_and_the_handler_is_put_back() -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(ValueError, match="mine"), reliable_interrupts():
        raise ValueError("mine")
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_request_to_stop_is_noted_and_the_second_one_stops(number: int) -> None:
    before = signal.getsignal(number)
    with Interruption() as interruption:
        assert interruption.number is None
        signal.raise_signal(number)
        assert interruption.number == number
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)
    assert signal.getsignal(number) is before


def test_what_nohup_ignores_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Interruption() as interruption:
            signal.raise_signal(signal.SIGHUP)
            assert interruption.number is None
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("handlers")
def test_a_polite_kill_interrupts_unless_it_is_ignored() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    interrupt_on_stops()
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGTERM)
    signal.raise_signal(signal.SIGHUP)


@pytest.mark.usefixtures("handlers")
def test_after_the_first_signal_none_disturbs_the_tidying_up() -> None:
    interrupt_once()
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGTERM)
    for number in STOPS:
        signal.raise_signal(number)


def test_within_an_uninterrupted_block_signals_are_ignored_and_then_as_before() -> None:
    before = [signal.getsignal(number) for number in STOPS]
    with uninterrupted():
        for number in STOPS:
            signal.raise_signal(number)
    assert [signal.getsignal(number) for number in STOPS] == before
