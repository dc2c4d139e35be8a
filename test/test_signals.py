"""Signals that come when an exception would be lost."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from types import FrameType

import pytest

from aiofranka_ros.demo.run import Interrupted, interrupt
from aiofranka_ros.processes import StopRequest

pytestmark = [pytest.mark.unit, pytest.mark.timing]

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class Finalized:
    def __del__(self) -> None:
        signal.raise_signal(signal.SIGUSR1)


@pytest.fixture
def handle() -> Iterator[Callable[[Callable[[int, FrameType | None], None]], object]]:
    """What makes a function the handler of SIGUSR1."""
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    yield lambda handler: signal.signal(signal.SIGUSR1, handler)
    for number, handler in before.items():
        signal.signal(number, handler)


def test_a_signal_in_a_finalizer_interrupts_the_node_once_that_has_returned(handle) -> None:
    stop = StopRequest()
    handle(stop._on_signal)
    with pytest.raises(KeyboardInterrupt), stop.interrupts():
        Finalized()
        time.sleep(10.0)  # what is to be interrupted
    assert stop.requested


def test_a_signal_in_a_finalizer_interrupts_the_demo_once_that_has_returned(handle) -> None:
    handle(interrupt)
    with pytest.raises(Interrupted) as interrupted:
        Finalized()
        time.sleep(10.0)  # what is to be interrupted
    assert interrupted.value.number == signal.SIGUSR1
    assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN


def test_a_second_signal_does_not_interrupt_the_cleaning_up(handle) -> None:
    stop = StopRequest()
    handle(stop._on_signal)
    with pytest.raises(KeyboardInterrupt), stop.interrupts():
        try:
            signal.raise_signal(signal.SIGUSR1)
        finally:
            signal.raise_signal(signal.SIGUSR1)
            stop.requested = False  # reached
    assert not stop.requested
