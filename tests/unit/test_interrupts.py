import signal

import pytest
from deepfake_tools.interrupts import reliable_interrupts


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
