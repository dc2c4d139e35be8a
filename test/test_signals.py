"""Signals are noted and never raise: what takes long asks, and whatever runs at that moment is not interrupted."""

from __future__ import annotations

import itertools
import os
import pty
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from aiofranka_ros.control.client import ControlClient
from aiofranka_ros.control.compilation import compile_kernels
from aiofranka_ros.errors import Interrupted
from aiofranka_ros.processes import StopRequest
from aiofranka_ros.simulation.simulated_arm import SimulatedArm
from aiofranka_ros.testing import Child, alive, descendants, environment, wait_until

pytestmark = pytest.mark.unit

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Restores the handlers of signals."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def stop() -> StopRequest:
    stop = StopRequest()
    stop.install()
    return stop


class Finalized:
    def __del__(self) -> None:
        signal.raise_signal(signal.SIGTERM)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_noted_and_raises_only_where_the_program_asks(stop: StopRequest, number: signal.Signals) -> None:
    stop.check()
    assert not stop.requested
    signal.raise_signal(number)
    assert stop.requested and stop.exit_status == 128 + number
    with pytest.raises(Interrupted, match=number.name):
        stop.check()


def test_a_signal_in_a_finalizer_or_in_a_callback_interrupts_neither(stop: StopRequest) -> None:
    def key(value: int) -> int:
        signal.raise_signal(signal.SIGINT)
        return -value

    Finalized()
    assert stop.number == signal.SIGTERM
    assert sorted([1, 2, 3], key=key) == [3, 2, 1]


@pytest.mark.parametrize("numbers", [*itertools.product(SIGNALS, repeat=2)])
def test_a_second_signal_changes_nothing(stop: StopRequest, numbers: tuple[signal.Signals, signal.Signals]) -> None:
    for number in numbers:
        signal.raise_signal(number)
    assert stop.number == numbers[0]


def test_a_signal_during_the_exit_does_not_change_the_exit_status() -> None:
    """After its last handler of exits, Python restores the signals' defaults, which end the process."""
    code = (
        "import atexit, os, signal\n"
        "from aiofranka_ros.processes import StopRequest\n"
        "class Late:\n"
        "    def __init__(self): self.kill = os.kill\n"
        "    def __del__(self):\n"
        "        for number in (15, 2, 1): self.kill(os.getpid(), number)\n"
        "stop = StopRequest()\n"
        "stop.install()\n"
        "late = Late()\n"
        "import sys; sys.late = late\n"
        "sys.exit(7)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], env=environment(), timeout=60).returncode == 7


def test_a_signal_ends_a_wait(stop: StopRequest) -> None:
    timer = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGTERM))
    timer.start()
    with pytest.raises(Interrupted):
        stop.sleep(1000.0)
    timer.join()


def test_under_nohup_a_closed_terminal_ends_nothing() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    stop = StopRequest()
    stop.install()
    signal.raise_signal(signal.SIGHUP)
    assert not stop.requested
    signal.raise_signal(signal.SIGTERM)
    assert stop.number == signal.SIGTERM


def test_a_program_whose_terminal_is_closed_ends_in_order_although_it_still_prints(tmp_path: Path) -> None:
    report = tmp_path / "report"
    program = (
        "import sys, time\n"
        "from aiofranka_ros.processes import StopRequest\n"
        "stop = StopRequest()\n"
        "stop.install()\n"
        "print('begun', flush=True)\n"
        "while not stop.requested:\n"
        "    time.sleep(0.01)\n"
        "print('ended', flush=True)\n"
        "print('ended', file=sys.stderr)\n"
        f"open({str(report)!r}, 'w').write('done')\n"
        "sys.exit(stop.exit_status)\n"
    )
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(sys.executable, [sys.executable, "-c", program])
    said = b""
    while b"begun" not in said:
        assert select.select([terminal], [], [], 40.0)[0]
        said += os.read(terminal, 1000)
    os.close(terminal)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 128 + signal.SIGHUP
    assert report.read_text() == "done"


def children_of_this_process() -> set[int]:
    return descendants(os.getpid())


def test_a_stop_request_ends_the_compiler_and_leaves_no_process(tmp_path: Path) -> None:
    code = (
        "import threading, time\n"
        "from aiofranka_ros.arm import limit_checks\n"
        "from aiofranka_ros.control.compilation import compile_kernels\n"
        "from aiofranka_ros.errors import Interrupted\n"
        "from aiofranka_ros.processes import StopRequest\n"
        "from aiofranka_ros.testing import descendants, wait_until\n"
        "import os\n"
        "stop = StopRequest()\n"
        "def later():\n"
        "    assert wait_until(lambda: descendants(os.getpid()))\n"
        "    stop.request()\n"
        "thread = threading.Thread(target=later)\n"
        "thread.start()\n"
        "try:\n"
        "    compile_kernels(stop)\n"
        "except Interrupted:\n"
        "    print('interrupted')\n"
        "thread.join()\n"
        "print(len(descendants(os.getpid())), 'left')\n"
    )
    child = Child(["-c", code], log=tmp_path / "log", env={"NUMBA_CACHE_DIR": str(tmp_path / "empty")})
    assert child.process.wait(60.0) == 0, child.log
    assert {"interrupted", "0 left"} <= set(child.log.splitlines()), child.log


def test_nothing_is_compiled_ahead_if_everything_is_or_if_it_could_not_be_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from aiofranka_ros import kernels
    from aiofranka_ros.control import compilation

    monkeypatch.setattr(compilation, "start_child", lambda *arguments, **options: pytest.fail("started a compiler"))
    monkeypatch.setattr(kernels, "compiled", lambda: True)
    compile_kernels()
    monkeypatch.setattr(kernels, "compiled", lambda: False)
    monkeypatch.setattr(kernels, "cacheable", lambda: False)
    compile_kernels()


def test_the_compiler_of_a_killed_program_ends_too(tmp_path: Path) -> None:
    code = (
        "from aiofranka_ros.arm import limit_checks\n"
        "from aiofranka_ros.control.compilation import compile_kernels\n"
        "compile_kernels()\n"
    )
    child = Child(["-c", code], log=tmp_path / "log", env={"NUMBA_CACHE_DIR": str(tmp_path / "empty")})
    assert wait_until(lambda: descendants(child.process.pid))
    compilers = descendants(child.process.pid)
    child.kill()
    assert wait_until(lambda: not any(map(alive, compilers)))


def test_a_start_that_is_interrupted_leaves_no_process() -> None:
    """Whatever is started: it is asked to stop before it is ready."""
    stop, before = StopRequest(), children_of_this_process()
    stop.request(signal.SIGHUP)
    for start in (ControlClient(priority=0).start, SimulatedArm("127.0.0.77").start):
        with pytest.raises(Interrupted, match="SIGHUP"):
            start(stop=stop)
        assert children_of_this_process() <= before
