"""The examples run on a simulated arm as their docstrings say, and do what they promise."""

from __future__ import annotations

import contextlib
import importlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from common import ROOT

from aiofranka_ros.testing import PATIENCE, NodeProcess, alive, descendants, wait_until

EXAMPLES = ROOT / "examples"
#: Those that can be started; the others are imported by them.
SCRIPTS = sorted(path.stem for path in EXAMPLES.glob("*.py") if '__name__ == "__main__"' in path.read_text())

#: Longest time that an example may take [s]: the first one after a change compiles the kernels.
_LONGEST = 4.0 * PATIENCE
pytestmark = pytest.mark.timeout(2.0 * _LONGEST)


class Example:
    """An example as a user starts it from a terminal, in a separate process group.

    :param log: file for standard error.
    :param typed: what the user types.
    """

    def __init__(self, name: str, *arguments: str, log: Path, typed: str = "") -> None:
        self._log, self._typed = log, typed
        path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
        with log.open("w") as stream:
            self.process = subprocess.Popen(
                [sys.executable, str(EXAMPLES / f"{name}.py"), *arguments],
                stdin=subprocess.PIPE if typed else subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stream,
                text=True,
                env=os.environ | {"PYTHONPATH": path, "PYTHONUNBUFFERED": "1"},
                start_new_session=True,
            )

    @property
    def complaints(self) -> str:
        """What it wrote to standard error."""
        return self._log.read_text()

    def output(self) -> str:
        """Everything that it prints until it ends by itself, with exit status 0."""
        printed, _ = self.process.communicate(self._typed or None, timeout=_LONGEST)
        assert self.process.returncode == 0, self.complaints
        return printed

    def interrupted(self) -> str:
        """What it prints after Ctrl-C, which must leave no process and no traceback behind."""
        children = descendants(self.process.pid)
        os.killpg(self.process.pid, signal.SIGINT)  # As a terminal does: every process of the group gets it.
        printed, _ = self.process.communicate(timeout=PATIENCE)
        assert self.process.returncode == 130, self.complaints
        assert "Traceback" not in self.complaints and "violation" not in self.complaints
        assert wait_until(lambda: not any(alive(pid) for pid in children))
        return printed


@contextlib.contextmanager
def started(name: str, *arguments: str, tmp_path: Path, typed: str = "") -> Iterator[Example]:
    """A running example; in the end it is killed, with everything that it started."""
    example = Example(name, *arguments, log=tmp_path / f"{name}.log", typed=typed)
    try:
        yield example
    finally:
        if example.process.poll() is None:
            os.killpg(example.process.pid, signal.SIGKILL)
        example.process.communicate()


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    """A node for the examples that activate it from any state; shared, as starting one takes long."""
    log = tmp_path_factory.mktemp("node") / "log"
    node = NodeProcess(log, diagnostics_rate=10.0, heartbeat_timeout=2.0, discovery_time=0.0)
    try:
        yield node
    finally:
        node.close()
    assert node.process.returncode == 0, node.log


def figure(pattern: str, text: str) -> float:
    """The number in the group of ``pattern``."""
    found = re.search(pattern, text)
    assert found is not None, f"no {pattern!r} in: {text}"
    return float(found[1])


def assert_nothing_was_lost(printed: str) -> None:
    assert figure(r"(\d+) control cycles", printed) > 1000
    assert figure(r"(\d+) lost", printed) == 0


def assert_the_ball_was_followed(printed: str) -> None:
    # On a busy machine, chunks bridge the gaps: half of the targets and a few chunks a second are enough.
    assert figure(r"(\d+) targets", printed) > 0.5 * 30 * 6
    assert figure(r"(\d+) chunks", printed) > 6
    # Without any motion it would be some 25 mm; on an idle machine it is 3 mm.
    assert figure(r"([\d.]+) mm from the ball", printed) < 15.0


def test_teach_keeps_poses_and_repeats_them(tmp_path: Path) -> None:
    with started("teach", tmp_path=tmp_path, typed="\n\nr\nq\n") as example:
        printed = example.output()
    assert re.search(r"pose 2: x -?\d\.\d+, y", printed) and "at pose 2 of 2" in printed


def test_hello_moves_sways_and_circles(tmp_path: Path) -> None:
    with started("hello", tmp_path=tmp_path) as example:
        printed = example.output()
    assert figure(r"moved ([\d.]+) rad", printed) == pytest.approx(0.1, abs=0.01)
    assert figure(r"swayed ([\d.]+) rad", printed) == pytest.approx(0.1, abs=0.03)
    assert figure(r"circled (\d+) mm", printed) == pytest.approx(40, abs=8)
    assert_nothing_was_lost(printed)


def test_the_policy_in_a_separate_process_follows_the_ball(tmp_path: Path) -> None:
    with started("policy_process", "--seconds", "6", tmp_path=tmp_path) as example:
        printed = example.output()
    assert_the_ball_was_followed(printed)
    assert_nothing_was_lost(printed)


def test_a_slow_policy_still_gives_a_target_in_every_period(tmp_path: Path) -> None:
    with started("policy_process", "--seconds", "4", "--think", "0.15", tmp_path=tmp_path) as example:
        printed = example.output()
    assert figure(r"chunk (\d+) ms \(median\)", printed) >= 150
    assert figure(r"(\d+) targets", printed) > 2.0 * figure(r"(\d+) chunks", printed)
    assert_nothing_was_lost(printed)


def test_the_policy_follows_the_ball_through_a_running_node(node: NodeProcess, tmp_path: Path) -> None:
    with started("policy_over_ros", "--node", node.name, "--seconds", "6", tmp_path=tmp_path) as example:
        printed = example.output()
    assert_the_ball_was_followed(printed)
    assert_nothing_was_lost(printed)
    assert node.process.poll() is None, node.log


def test_the_hand_follows_the_ball_by_a_slow_policy_that_plans_in_chunks(tmp_path: Path) -> None:
    with started("chunked_policy", "--seconds", "6", tmp_path=tmp_path) as example:
        printed = example.output()
    chunks = figure(r"(\d+) chunks", printed)
    assert chunks > 6
    # Without any motion it would be some 25 mm; on an idle machine it is 4 mm. The policy predicts a straight line from
    # the last two pictures, so on a busy machine, whose pictures are old, it loses a ball in a circle of 30 mm sooner.
    period = 6.0 / chunks
    oldest = period + 1e-3 * figure(r"(\d+) ms \(longest\)", printed)
    acceleration = 30.0 * (2.0 * np.pi * 0.2) ** 2
    off_the_line = acceleration * (period / 2.0 * oldest + oldest**2 / 2.0)
    assert figure(r"([\d.]+) mm from the ball", printed) < max(15.0, off_the_line)
    assert_nothing_was_lost(printed)


def test_a_policy_that_gets_the_prefix_does_not_turn_around(tmp_path: Path) -> None:
    with started("realtime_chunking", "--seconds", "4", tmp_path=tmp_path) as example:
        printed = example.output()
    assert figure(r"without the prefix: (\d+) changes", printed) > figure(r"with the prefix: (\d+) changes", printed)
    # The arm does draw circles, of 100 mrad radius.
    assert figure(r"with the prefix: .* (\d+) mrad from the circle", printed) < 30
    assert_nothing_was_lost(printed)


@pytest.mark.unit
def test_the_flow_policy_of_the_example_continues_its_prefix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    example = importlib.import_module("realtime_chunking")
    changes = {}
    for inpaint in (False, True):
        policy = example.FlowPolicy(np.zeros(7), think=0.0, inpaint=inpaint)
        observation, prefix = {"qpos": example.RADIUS * np.eye(7)[0]}, np.zeros((0, 7))
        for _ in range(40):
            chunk = policy.get_chunk(observation, prefix, delay=5)
            assert chunk.shape == (example.HORIZON, 7)
            np.testing.assert_allclose(np.hypot(chunk[:, 0], chunk[:, 3]), example.RADIUS, rtol=0.01)
            if inpaint:
                np.testing.assert_allclose(chunk[: len(prefix)][:5], prefix[:5])
            observation, prefix = {"qpos": chunk[12]}, chunk[12:]
        changes[inpaint] = policy.changes
    assert changes[True] == 0 and changes[False] > 5


def test_a_policy_on_an_openpi_server_drives_the_arm(tmp_path: Path) -> None:
    for name in ("websockets", "msgpack"):
        pytest.importorskip(name, reason='it is in the extra "openpi"')
    with started("openpi_policy", "--seconds", "5", tmp_path=tmp_path) as example:
        printed = example.output()
    assert "connected to ws://127.0.0.1:" in printed
    assert figure(r"(\d+) chunks", printed) > 5
    assert 0.05 < figure(r"moved by up to ([\d.]+) rad", printed) < 0.4
    assert_nothing_was_lost(printed)


@pytest.mark.light
def test_without_the_packages_for_openpi_the_example_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "msgpack.py").write_text("raise ModuleNotFoundError('not here', name='msgpack')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with started("openpi_policy", tmp_path=tmp_path) as example:
        printed, _ = example.process.communicate(timeout=PATIENCE)
        complaints = example.complaints
    assert example.process.returncode == 1 and printed == ""
    assert complaints.startswith("msgpack is missing: pip install ") and "Traceback" not in complaints


def test_a_policy_draws_circles_in_chunks_through_a_running_node(tmp_path: Path) -> None:
    node = NodeProcess(tmp_path / "node.log", heartbeat_timeout=2.0, discovery_time=0.0)
    try:
        with started("chunks_over_ros", "--node", node.name, "--seconds", "5", tmp_path=tmp_path) as example:
            printed = example.output()
        assert figure(r"(\d+) chunks", printed) > 5 and figure(r"(\d+) refused", printed) == 0
        assert 150 <= figure(r"torque (\d+) ms", printed) < 1000
        # Without any motion it would be some 50 mm; on an idle machine it is 3 mm.
        assert figure(r"([\d.]+) mm from the circle", printed) < 15.0
    finally:
        node.close()
    assert node.process.returncode == 0, node.log


def test_a_person_takes_over_and_the_policy_continues(node: NodeProcess, tmp_path: Path) -> None:
    with started("take_over", "--node", node.name, tmp_path=tmp_path) as example:
        lines = example.output().splitlines()
    assert lines[:2] == ["/teleop drives", "the policy drives"] and len(lines) == 3, lines
    assert figure(r"lifted (\d+) mm", lines[2]) == pytest.approx(40, abs=5)
    assert "/teleop takes control from /aiofranka_client_" in node.log


def test_modes_are_switched_without_a_step_in_the_torque(tmp_path: Path) -> None:
    with started("switch_modes", "--seconds", "2", tmp_path=tmp_path) as example:
        printed = example.output()
    changes = [float(change) for change in re.findall(r"changed by ([\d.]+) Nm", printed)]
    # The states are 10 ms apart, on a busy machine more, and the arm has not quite stopped: 0.3 Nm on an idle one. If
    # the new law started from zero, the torque would change by 990 Nm/s in that time.
    assert len(changes) == 5 and max(changes) < 5.0
    assert_nothing_was_lost(printed)


def test_the_ros_client_activates_streams_moves_and_cancels(tmp_path: Path) -> None:
    node = NodeProcess(tmp_path / "node.log", discovery_time=0.0)
    try:
        with started("ros_client", "--node", node.name, tmp_path=tmp_path) as example:
            assert example.output().split() == ["arrived", "cancelled"]
        assert "refused" not in node.log and "limited" not in node.log
        children = descendants(node.process.pid)
    finally:
        node.close()
    assert node.process.returncode == 0, node.log
    assert len(children) == 2  # The control process and the simulated arm.
    assert wait_until(lambda: not any(alive(pid) for pid in children))


def test_ctrl_c_while_the_arm_is_being_started_leaves_no_process_behind(tmp_path: Path) -> None:
    with started("policy_process", tmp_path=tmp_path) as example:
        # The policy, the control process and the simulated arm.
        assert wait_until(lambda: len(descendants(example.process.pid)) >= 3), example.complaints
        assert example.interrupted() == ""


def test_ctrl_c_while_the_arm_moves_releases_it(tmp_path: Path) -> None:
    with started("switch_modes", tmp_path=tmp_path) as example:
        assert example.process.stdout is not None
        assert "impedance" in example.process.stdout.readline()
        assert "cycles" not in example.interrupted()


@pytest.mark.light
@pytest.mark.parametrize("name", SCRIPTS)
def test_help_explains_every_option(name: str, tmp_path: Path) -> None:
    with started(name, "--help", tmp_path=tmp_path) as example:
        text = example.output()
    usage, _, explained = text.partition("\noptions:")
    options = set(re.findall(r"\[(--\w+)", usage))
    assert options & {"--robot", "--node"}
    for option in options:
        assert re.search(rf"^  {option} \w+\s+[a-z]+ ", explained, re.MULTILINE), f"{option} is not explained"


@pytest.mark.light
def test_a_missing_arm_is_reported_in_one_line(tmp_path: Path) -> None:
    with started("hello", "--robot", "127.0.0.99", tmp_path=tmp_path) as example:
        printed, _ = example.process.communicate(timeout=PATIENCE)
        complaints = example.complaints
    assert example.process.returncode == 1 and printed == ""
    assert "ConnectionFailed: " in complaints and "Traceback" not in complaints
