"""``python -m aiofranka_ros.streams``: what it prints of streams from a real publisher, and of what is wrong.

Most tests need no arm: the node that they watch only takes targets, and publishes them as what it measures.
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rclpy
from builtin_interfaces.msg import Time
from geometry_msgs.msg import Pose, PoseStamped, TwistStamped
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import qos_profile_sensor_data
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import JointState
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from aiofranka_ros.model.names import FR3
from aiofranka_ros.streams.__main__ import main
from aiofranka_ros.testing import PATIENCE, Client, NodeProcess, environment, wait_until

#: The speed that is meant [m/s].
SPEED = 0.05
#: How a stream that moves is described. Which kind an even one is depends on how busy the computer is.
MOVING = r"kind      [a-z ]+: [0-9.]+ Hz"


class Graph:
    """A node that takes targets, and a policy that publishes some, in a thread."""

    def __init__(self, name: str) -> None:
        self._contexts = [Context(), Context()]
        for context in self._contexts:
            rclpy.init(args=[], context=context, signal_handler_options=SignalHandlerOptions.NO)
        self.node, self.policy = (
            rclpy.create_node(each, context=context, use_global_arguments=False)
            for each, context in zip((name, "policy"), self._contexts, strict=True)
        )
        self.name = f"/{name}"
        self.node.declare_parameters("", [("mode", "osc"), ("max_target_age", 0.5), ("interpolation", "auto")])
        self._measured = self.node.create_publisher(PoseStamped, "~/ee_pose", qos_profile_sensor_data)
        self.node.create_subscription(PoseStamped, "~/ee_desired", self._on_pose, 1)
        self.node.create_subscription(JointState, "~/q_desired", lambda message: None, 1)
        self.node.create_subscription(TwistStamped, "~/twist_desired", lambda message: None, 1)
        self.node.create_subscription(JointTrajectory, "fr3_arm_controller/joint_trajectory", lambda message: None, 1)
        self._executor = SingleThreadedExecutor(context=self.node.context)
        self._executor.add_node(self.node)
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._spin)]
        self._threads[0].start()

    def _on_pose(self, message: PoseStamped) -> None:
        now = time.time_ns()
        message.header.stamp = Time(sec=now // 10**9, nanosec=now % 10**9)
        self._measured.publish(message)

    def _spin(self) -> None:
        while not self._ended.is_set():
            self._executor.spin_once(timeout_sec=0.1)

    def publish(self, kind: Any, topic: str, rate: float, fill: Callable[[Any, int], None]) -> None:
        """Publish messages at ``rate`` [Hz], the k-th filled by ``fill(message, k)``, until the end."""
        publisher = self.policy.create_publisher(kind, topic, 10)

        def run() -> None:
            # A busy computer makes it slower, not uneven.
            k = 0
            while not self._ended.wait(1.0 / rate):
                message = kind()
                fill(message, k)
                publisher.publish(message)
                k += 1

        self._threads.append(threading.Thread(target=run))
        self._threads[-1].start()

    def close(self) -> None:
        """End everything."""
        self._ended.set()
        for thread in self._threads:
            thread.join()
        self._executor.shutdown()
        for node in (self.node, self.policy):
            node.destroy_node()
        for context in self._contexts:
            context.try_shutdown()


@pytest.fixture
def graph(request: pytest.FixtureRequest) -> Iterator[Graph]:
    graph = Graph(f"arm{abs(hash(request.node.name)) % 10**8}")
    yield graph
    graph.close()


def moving(message: PoseStamped, k: int) -> None:
    """By the time: a busy computer sends fewer targets, not others."""
    message.pose.position.y = SPEED * time.monotonic()


def watch(node: str, capsys: Any, *words: str, seconds: float = 1.5) -> tuple[int, str, str]:
    """Exit status, output and errors of the command."""
    status = main(["--node", node, "--seconds", str(seconds), *words])
    printed = capsys.readouterr()
    return status, printed.out, printed.err


# --- The command line


@pytest.mark.unit
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--seconds", "0.1"], "0.1 is not between 0.5 and 600 s"),
        (["--seconds", "long"], "invalid _duration value: 'long'"),
        (["--output", "/no/such/folder/plot.png"], "there is no folder /no/such/folder"),
        (["--node", "/left/aiofranka", "--namespace", "left"], "full name already"),
        (["now"], "unrecognized arguments: now"),
    ],
)
def test_a_wrong_command_line_exits_with_2_and_says_what_is_wrong(words: list[str], message: str, capsys: Any) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(words)
    assert exit_.value.code == 2
    assert message in capsys.readouterr().err


# --- What comes


@pytest.mark.light
def test_a_stream_is_described_and_drawn(graph: Graph, capsys: Any, tmp_path: Path) -> None:
    graph.publish(PoseStamped, f"{graph.name}/ee_desired", 50.0, moving)
    plot = tmp_path / "plot.png"
    status, out, err = watch(graph.name, capsys, "--output", str(plot))
    assert status == 0, err
    assert f"{graph.name}/ee_desired  geometry_msgs/msg/PoseStamped, from /policy" in out
    assert re.search(MOVING, out) and "stamps    none" in out and "the arm" in out
    assert "set       nothing needs to be set" in out or "problem" in out
    assert plot.read_bytes().startswith(b"\x89PNG")


@pytest.mark.light
def test_everything_is_available_as_json_with_the_command_that_sets_what_helps(graph: Graph, capsys: Any) -> None:
    def late(message: PoseStamped, k: int) -> None:
        """As from a computer whose clock is three seconds behind."""
        moving(message, k)
        stamp = time.time_ns() - 3 * 10**9
        message.header.stamp = Time(sec=stamp // 10**9, nanosec=stamp % 10**9)

    graph.publish(PoseStamped, f"{graph.name}/ee_desired", 50.0, late)
    status, out, err = watch(graph.name, capsys, "--json")
    assert status == 0, err
    (topic,) = json.loads(out)["topics"]
    assert topic["stream"]["rhythm"]["period"] > 0.0 and topic["publishers"] == ["/policy"]
    assert topic["stream"]["stamps"]["age"] == pytest.approx(3.0, abs=0.5)
    assert 1.0 < topic["stream"]["rhythm"]["rate"] <= 51.0
    command = topic["command"]
    assert "-m aiofranka_ros.ctl set max_target_age 3." in command and command.endswith(f"--node {graph.name}")


@pytest.mark.light
def test_velocities_and_chunks_are_described_and_what_cannot_be_used_is_named(graph: Graph, capsys: Any) -> None:
    def chunk(message: JointTrajectory, k: int) -> None:
        message.joint_names = list(FR3.joints)
        for i in range(8):
            point = JointTrajectoryPoint(positions=[0.01 * (k + i)] * 7)
            point.time_from_start.nanosec = 50_000_000 * i
            message.points.append(point)

    def joints(message: JointState, k: int) -> None:
        message.position = [float("nan") if k % 2 else 0.1] * 7

    graph.publish(TwistStamped, f"{graph.name}/twist_desired", 30.0, lambda message, k: None)
    graph.publish(JointTrajectory, "/fr3_arm_controller/joint_trajectory", 5.0, chunk)
    graph.publish(JointState, f"{graph.name}/q_desired", 20.0, joints)
    status, out, err = watch(graph.name, capsys, "--json")
    assert status == 0, err
    topics = {topic["topic"].rpartition("/")[2]: topic for topic in json.loads(out)["topics"]}
    assert topics["twist_desired"]["stream"]["quantity"] == "twist"
    assert topics["joint_trajectory"]["chunks"]["points"] == 8
    assert topics["joint_trajectory"]["chunks"]["step"] == pytest.approx(0.05)
    assert topics["q_desired"]["unusable"].keys() == {"not finite"}
    texts = [finding["text"] for finding in topics["q_desired"]["findings"]]
    assert any("the mode is osc" in text for text in texts) and any("not finite" in text for text in texts)


@pytest.mark.light
def test_a_second_publisher_is_named_and_left_out(graph: Graph, capsys: Any) -> None:
    def elsewhere(message: PoseStamped, k: int) -> None:
        moving(message, k)
        message.pose.position.x = 0.3

    graph.publish(PoseStamped, f"{graph.name}/ee_desired", 50.0, moving)
    graph.publish(PoseStamped, f"{graph.name}/ee_desired", 20.0, elsewhere)
    status, out, err = watch(graph.name, capsys, "--json")
    assert status == 0, err
    (topic,) = json.loads(out)["topics"]
    if not topic["messages of other publishers"]:
        pytest.skip("this middleware does not say who sent a message")
    assert topic["stream"]["gaps"]["outliers"] == 0 and topic["stream"]["gaps"]["jumps"] == []
    assert any("another publisher" in finding["text"] for finding in topic["findings"])


@pytest.mark.light
def test_ctrl_c_ends_the_watch_and_what_came_until_then_is_reported(graph: Graph) -> None:
    graph.publish(PoseStamped, f"{graph.name}/ee_desired", 50.0, moving)
    command = [sys.executable, "-m", "aiofranka_ros.streams", "--node", graph.name, "--seconds", "600"]
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, env=environment(), stdout=pipe, stderr=pipe, text=True, start_new_session=True
    ) as ran:
        listening = wait_until(lambda: graph.node.count_subscribers(f"{graph.name}/ee_desired") > 1)
        assert listening
        until = time.monotonic() + 1.0
        wait_until(lambda: time.monotonic() > until)
        ran.send_signal(signal.SIGINT)
        out, err = ran.communicate(timeout=PATIENCE)
    assert ran.returncode == 0, err
    assert re.search(MOVING, out)


# --- What is wrong


@pytest.mark.light
def test_a_node_that_does_not_exist_and_one_that_takes_no_targets_are_named(graph: Graph, capsys: Any) -> None:
    status, out, err = watch("/nobody_here", capsys)
    assert status == 1 and out == ""
    assert "there is no node /nobody_here" in err and graph.name in err and "ROS_DOMAIN_ID" in err
    status, out, err = watch("/policy", capsys)
    assert status == 1 and "/policy takes no targets" in err


@pytest.mark.light
def test_without_a_publisher_topics_and_types_are_named(graph: Graph, capsys: Any) -> None:
    status, out, err = watch(graph.name, capsys, seconds=0.5)
    assert status == 1 and out == ""
    assert "no publisher" in err and "~/ee_desired (geometry_msgs/msg/PoseStamped)" in err and "ROS domain" in err


@pytest.mark.light
def test_a_publisher_of_another_name_or_type_or_one_that_is_silent_is_named(graph: Graph, capsys: Any) -> None:
    publishers = [graph.policy.create_publisher(PoseStamped, "/ee_desired", 1)]
    _, _, err = watch(graph.name, capsys, seconds=0.5)
    assert f"-r /ee_desired:={graph.name}/ee_desired" in err
    publishers.append(graph.policy.create_publisher(Pose, f"{graph.name}/ee_desired", 1))
    _, _, err = watch(graph.name, capsys, seconds=0.5)
    assert "has a publisher of another type: geometry_msgs/msg/Pose" in err
    publishers.append(graph.policy.create_publisher(TwistStamped, f"{graph.name}/twist_desired", 1))
    status, _, err = watch(graph.name, capsys, seconds=0.5)
    assert status == 1 and "no message came: /policy on" in err


# --- With an arm


@pytest.mark.parametrize("repeated", [1, 5])
def test_the_arm_is_compared_with_the_targets(
    running: tuple[NodeProcess, Client], robot: Client, repeated: int
) -> None:
    """A policy of 50 Hz, or of 10 Hz whose targets are published at 50 Hz."""
    pose = robot.pose
    y = pose.pose.position.y
    pose.header.stamp = Time()
    command = [sys.executable, "-m", "aiofranka_ros.streams", "--node", robot.name, "--json", "--seconds", "5"]
    begin = time.monotonic()
    # In another process, because this one publishes evenly.
    with subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, start_new_session=True) as ran:
        while ran.poll() is None:
            # There and back: 5 cm in 2 s. A busy computer sends fewer targets, not others.
            way = 0.025 * (np.floor((time.monotonic() - begin) * 50.0 / repeated) * repeated / 50.0) % 0.1
            pose.pose.position.y = y + (way if way < 0.05 else 0.1 - way)
            robot.publish("ee_desired", pose)
            robot.spin_for(0.015)
        out, _ = ran.communicate(timeout=PATIENCE)
    assert ran.returncode == 0
    found = json.loads(out)
    (topic,) = [topic for topic in found["topics"] if topic["messages"]]
    # A busy computer sends fewer targets, and makes the arm later, but not earlier.
    assert (topic["stream"]["rhythm"]["repeats"] > 2.0) == (repeated == 5)
    assert topic["arm"]["follows"] and topic["arm"]["lag"] > (0.08 if repeated == 5 else -0.02)
    assert topic["arm"]["unit"] == "m"
    assert any("extrapolated" in text or "interpolated" in text for text in found["node says"])


def test_a_client_that_only_watches_leaves_nothing_behind(robot: Client, capsys: Any) -> None:
    before = robot.others()
    watch(robot.name, capsys, seconds=0.5)
    assert robot.spin_until(lambda: robot.others() == before)
