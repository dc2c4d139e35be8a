"""A node in a process of its own, and a client that talks to it as users do; for the tests of the node."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from franka_msgs.action import PTPMotion
from geometry_msgs.msg import PoseStamped
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.srv import GetParameters, SetParametersAtomically
from rclpy.action import ActionClient
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter, parameter_value_to_python
from rclpy.qos import qos_profile_sensor_data
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import JointState

from aiofranka_ros.ros.executor import with_info

ROOT = Path(__file__).resolve().parent.parent
#: Longest that anything may take that is waited for [s]. Ten times what it takes on an idle machine.
PATIENCE = 40.0

_namespaces = (f"test{number}" for number in itertools.count(1))


def wait_until(condition: Callable[[], Any], timeout: float = PATIENCE) -> bool:
    """Whether ``condition`` came true in time."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def descendants(pid: int) -> set[int]:
    """Process ids of all living children of ``pid``, theirs included."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            if fields[0] != "Z":
                children.setdefault(int(fields[1]), []).append(int(entry.name))
    found: set[int] = set()
    new = [pid]
    while new:
        new = [child for parent in new for child in children.get(parent, [])]
        found.update(new)
    return found


def descendant(pid: int, name: str) -> int:
    """Process id of the one living child of ``pid``, or of its children, that has ``name`` in its command line."""
    found = [child for child in descendants(pid) if name in Path(f"/proc/{child}/cmdline").read_text()]
    assert len(found) == 1, f"{len(found)} processes of {name}"
    return found[0]


def alive(pid: int) -> bool:
    """Whether the process exists and is not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


class NodeProcess:
    """The node as a user starts it.

    :param log: file for all that it says.
    :param namespace: where it is; one of its own if ``None``.
    :param parameters: its parameters.
    """

    MODULE, NAME = "aiofranka_ros.node", "aiofranka"

    def __init__(self, log: Path, namespace: str | None = None, **parameters: Any) -> None:
        self.namespace = next(_namespaces) if namespace is None else namespace
        self.name = f"/{self.namespace}/{self.NAME}"
        self._log = log
        command = [sys.executable, "-m", self.MODULE, "--ros-args", "-r", f"__ns:=/{self.namespace}"]
        for name, value in parameters.items():
            text = str(value).lower() if isinstance(value, bool) else str(value)
            command += ["-p", f"{name}:={text}"]
        path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
        with log.open("w") as stream:
            self.process = subprocess.Popen(
                command,
                stdout=stream,
                stderr=subprocess.STDOUT,
                env=os.environ | {"PYTHONPATH": path, "PYTHONUNBUFFERED": "1"},
            )

    def name_of(self, name: str) -> str:
        """The whole name of a topic, service or action that the node calls ``name``."""
        return name.replace("~", self.name) if name.startswith("~") else f"/{self.namespace}/{name}"

    @property
    def log(self) -> str:
        """All that it said so far."""
        return self._log.read_text()

    def says(self, text: str, *, after: int = 0) -> bool:
        """Whether ``text`` appears in its log in time, beyond the first ``after`` characters."""
        return wait_until(lambda: text in self.log[after:] or self.process.poll() is not None) and (
            text in self.log[after:]
        )

    def end(self, number: signal.Signals = signal.SIGINT) -> int:
        """Send a signal and return the exit status."""
        self.process.send_signal(number)
        return self.process.wait(PATIENCE)

    def close(self) -> None:
        """End it if it still runs."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


class Client:
    """An rclpy client of one node, as a user would write it.

    Everything runs in the calling thread: methods spin until what they wait for has come.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._context = Context()
        rclpy.init(context=self._context, signal_handler_options=SignalHandlerOptions.NO)
        self.node = rclpy.create_node("client", context=self._context, use_global_arguments=False)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)
        self.joint_states: list[Any] = []
        self.poses: list[Any] = []
        self._diagnostics: dict[str, Any] = {}
        self._asked = 0
        namespace, _, base = name.rpartition("/")
        self.node.create_subscription(JointState, f"{namespace}/joint_states", self.joint_states.append, 10)
        self.node.create_subscription(PoseStamped, f"{name}/ee_pose", self.poses.append, qos_profile_sensor_data)
        self.node.create_subscription(DiagnosticArray, "/diagnostics", with_info(self._on_diagnostics), 10)
        self._publishers = {
            topic: self.node.create_publisher(kind, f"{name}/{topic}", 1)
            for topic, kind in (
                ("ee_desired", PoseStamped),
                ("q_desired", JointState),
                ("torque_desired", JointState),
            )
        }
        self._change_state = self.node.create_client(ChangeState, f"{name}/change_state")
        self._get_state = self.node.create_client(GetState, f"{name}/get_state")
        self._set_parameters = self.node.create_client(SetParametersAtomically, f"{name}/set_parameters_atomically")
        self._get_parameters = self.node.create_client(GetParameters, f"{name}/get_parameters")
        self._move = ActionClient(self.node, PTPMotion, f"{name}/move")
        self.feedback: list[Any] = []

    def close(self) -> None:
        """Leave the graph."""
        self._move.destroy()
        self._executor.shutdown()
        self.node.destroy_node()
        self._context.try_shutdown()

    def spin_until(self, condition: Callable[[], Any], timeout: float = PATIENCE) -> bool:
        """Whether ``condition`` came true in time."""
        deadline = time.monotonic() + timeout
        while not condition():
            if time.monotonic() > deadline:
                return False
            self._executor.spin_once(timeout_sec=0.05)
        return True

    def spin_for(self, duration: float) -> None:
        """Receive what comes within ``duration`` [s]."""
        self.spin_until(lambda: False, duration)

    def call(self, client: Any, request: Any) -> Any:
        """The answer of a service."""
        assert self.spin_until(client.service_is_ready), f"no service {client.srv_name}"
        return self.result(client.call_async(request))

    def result(self, future: Any) -> Any:
        """The result of an rclpy future."""
        assert self.spin_until(future.done), "no answer"
        return future.result()

    # Lifecycle.

    def change(self, transition: str) -> bool:
        """Ask for a transition; return whether it succeeded."""
        request = ChangeState.Request()
        request.transition.label = transition
        return bool(self.call(self._change_state, request).success)

    @property
    def state(self) -> str:
        """The node's lifecycle state."""
        return str(self.call(self._get_state, GetState.Request()).current_state.label)

    def becomes(self, state: str) -> bool:
        """Whether the node is in ``state`` in time."""
        deadline = time.monotonic() + PATIENCE
        while self.state != state:
            if time.monotonic() > deadline:
                return False
            self.spin_for(0.05)
        return True

    # Parameters.

    def set(self, **values: Any) -> str:
        """Set parameters together; return the reason why they were refused, or an empty string."""
        parameters = [Parameter(name, value=value).to_parameter_msg() for name, value in values.items()]
        result = self.call(self._set_parameters, SetParametersAtomically.Request(parameters=parameters)).result
        assert result.successful == (not result.reason)
        return str(result.reason)

    def get(self, name: str) -> Any:
        """Value of a parameter."""
        values = self.call(self._get_parameters, GetParameters.Request(names=[name])).values
        return parameter_value_to_python(values[0])

    # What is measured.

    @property
    def q(self) -> np.ndarray:
        """Joint positions [rad] (7,), measured after this call."""
        self.joint_states.clear()
        assert self.spin_until(lambda: self.joint_states), "no joint states"
        return np.array(self.joint_states[-1].position)

    @property
    def pose(self) -> Any:
        """Pose of the control frame, measured after this call."""
        self.poses.clear()
        assert self.spin_until(lambda: self.poses), "no poses"
        return self.poses[-1]

    @property
    def position(self) -> np.ndarray:
        """Position of the control frame [m] (3,), measured after this call."""
        p = self.pose.pose.position
        return np.array([p.x, p.y, p.z])

    def speed(self) -> float:
        """Largest joint velocity [rad/s], measured after this call."""
        self.joint_states.clear()
        assert self.spin_until(lambda: self.joint_states), "no joint states"
        return float(np.abs(self.joint_states[-1].velocity).max())

    def rests(self) -> bool:
        """Whether the arm comes to rest in time."""
        return wait_until(lambda: self.speed() < 0.005)

    def diagnostics(self, status: str) -> tuple[Any, dict[str, str]]:
        """Level and values of a status, published after this call."""
        self._diagnostics.clear()
        self._asked = time.time_ns()
        assert self.spin_until(lambda: status in self._diagnostics), f"no diagnostics {status!r}"
        found = self._diagnostics[status]
        return found.level, {value.key: value.value for value in found.values}

    def _on_diagnostics(self, message: Any, info: Any) -> None:
        if info.get("source_timestamp", self._asked) < self._asked:
            return  # It was under way already.
        for status in message.status:
            node, _, name = status.name.partition(": ")
            if node == self._name.lstrip("/"):
                self._diagnostics[name] = status

    # Targets and moves.

    def publish(self, topic: str, message: Any) -> None:
        """Publish a target once the node listens."""
        publisher = self._publishers[topic]
        assert self.spin_until(lambda: publisher.get_subscription_count() > 0)
        publisher.publish(message)

    def send_goal(self, q: Any, *, velocities: Any = (), tolerance: float = 0.0) -> Any:
        """Send a goal of ~/move; return its handle, which says whether it was accepted."""
        assert self.spin_until(self._move.server_is_ready)
        goal = PTPMotion.Goal(
            goal_joint_configuration=[float(value) for value in q],
            maximum_joint_velocities=[float(value) for value in velocities],
            goal_tolerance=float(tolerance),
        )
        self.feedback.clear()
        return self.result(self._move.send_goal_async(goal, feedback_callback=self.feedback.append))

    def outcome(self, handle: Any) -> Any:
        """Status and result of an accepted goal."""
        return self.result(handle.get_result_async())

    def cancel(self, handle: Any) -> Any:
        """Cancel a goal; return the answer."""
        return self.result(handle.cancel_goal_async())


@contextlib.contextmanager
def started(tmp_path: Path, **parameters: Any) -> Iterator[tuple[NodeProcess, Client]]:
    """A node and its client."""
    # Others keep the node waiting on a busy machine. What happens then is for tests that give another timeout.
    parameters = {"heartbeat_timeout": 2.0} | parameters
    process = NodeProcess(tmp_path / f"node{time.monotonic_ns()}.log", **parameters)
    client = None
    try:
        client = Client(process.name)
        yield process, client
    finally:
        if client is not None:
            client.close()
        process.close()
        if process.process.returncode != 0:
            sys.stderr.write(process.log)
