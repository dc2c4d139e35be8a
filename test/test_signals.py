"""Signals that arrive where an exception would be lost, or would interrupt a cleanup."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator

import pytest

from aiofranka_ros.processes import StopRequest

pytestmark = [pytest.mark.unit, pytest.mark.timing]


class Finalized:
    def __del__(self) -> None:
        signal.raise_signal(signal.SIGTERM)


@pytest.fixture
def stop() -> Iterator[StopRequest]:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    stop = StopRequest()
    stop.install()
    yield stop
    for number, handler in before.items():
        signal.signal(number, handler)


def test_a_signal_in_a_finalizer_interrupts_once_the_finalizer_has_returned(stop: StopRequest) -> None:
    with pytest.raises(KeyboardInterrupt), stop.interrupts():
        Finalized()
        time.sleep(10.0)  # interrupted
    assert stop.requested


def test_a_second_signal_does_not_interrupt_the_cleanup(stop: StopRequest) -> None:
    cleaned_up = False
    with pytest.raises(KeyboardInterrupt), stop.interrupts():
        try:
            signal.raise_signal(signal.SIGINT)
        finally:
            signal.raise_signal(signal.SIGTERM)
            cleaned_up = True
    assert cleaned_up


def test_a_signal_outside_is_recorded_and_interrupts_the_next_long_operation(stop: StopRequest) -> None:
    assert not stop.requested
    signal.raise_signal(signal.SIGINT)
    assert stop.requested and stop.exit_status == 130
    with pytest.raises(KeyboardInterrupt), stop.interrupts():
        pytest.fail("not reached")


def test_an_exception_that_a_library_makes_of_an_interruption_is_still_an_interruption(stop: StopRequest) -> None:
    with pytest.raises(KeyboardInterrupt), stop.interrupts():
        try:
            signal.raise_signal(signal.SIGTERM)
        except KeyboardInterrupt:
            raise RuntimeError("compilation failed") from None
    assert stop.exit_status == 143
