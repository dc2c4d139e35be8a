"""The client of one running node: its transitions, parameters, diagnostics, moves and targets.

Made by :class:`~aiofranka_ros.api.ros_interface.RosInterface` at each start, and closed at the stop. Used in the
policy's event loop, unless it says otherwise.
"""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from action_msgs.msg import GoalStatus
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from franka_msgs.action import PTPMotion
from geometry_msgs.msg import Point, Pose, PoseStamped, Quaternion, Twist, TwistStamped, Vector3
from lifecycle_msgs.msg import State
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.srv import GetParameters, SetParametersAtomically
from rclpy.parameter import Parameter, parameter_value_to_python
from sensor_msgs.msg import JointState
from std_srvs.srv import Trigger

from aiofranka_ros import errors
from aiofranka_ros.api.link import ConnectionReport
from aiofranka_ros.api.ros_client import ANSWER_TIMEOUT, RosClient, unique_name
from aiofranka_ros.api.ros_goals import Goals
from aiofranka_ros.errors import (
    CommandRefused,
    ConfigurationError,
    ConnectionFailed,
    ControlStopped,
    FrankaError,
    InvalidTarget,
    MoveFailed,
    NotStarted,
    RecordingFailed,
)
from aiofranka_ros.kernels import Array, Record
from aiofranka_ros.model.names import ArmNames
from aiofranka_ros.ros.cdr import SerializedMessage
from aiofranka_ros.ros.clients import action_client
from aiofranka_ros.ros.messages import header_of
from aiofranka_ros.ros.refusals import Refusal

#: How long discovery may take [s].
_DISCOVERY_TIMEOUT = 10.0
#: A transition may have to compile the control process's kernels, which takes half a minute [s].
_TRANSITION_TIMEOUT = 200.0
#: Writing a recording has a low priority: on a busy computer it takes long [s].
_RECORDING_TIMEOUT = 150.0
#: How long the reason for a failure may take to arrive after the failure [s].
REASON_DELAY = 0.1
#: How long the error of a stopped robot may take to reach the caller of a move; it is better than the move's [s].
_STOP_DELAY = 1.0
#: What the message of a target is made from.
_TARGET = np.dtype([("stamp", "i8"), ("values", "f8", (7,))])


class ParameterQueue:
    """Changes of a node's parameters that it has not confirmed yet.

    They are requested one after the other, because DDS keeps ten requests for a busy node, and the eleventh replaces
    the first. A change replaces an older one of the same parameters. :meth:`put` may be called in any thread.

    :param client: sends the requests.
    :param node: full name of the node.
    :param on_settled: called in the event loop when the node has answered all requests.
    """

    def __init__(self, client: RosClient, node: str, on_settled: Callable[[], None]) -> None:
        self._client = client
        self.service = client.node.create_client(SetParametersAtomically, f"{node}/set_parameters_atomically")
        self._on_settled = on_settled
        self._send_in_loop = client.in_loop(lambda _: self._send_next())
        self._lock = threading.Lock()  # Of the changes that wait, in the order of their requests.
        self._waiting: dict[frozenset[str], Mapping[str, Any]] = {}
        self._sent: SetParametersAtomically.Request | None = None
        self._answered = asyncio.Event()
        self._refusal: FrankaError | None = None

    @property
    def settled(self) -> bool:
        """Whether the node has answered all requests."""
        return not self._waiting and self._sent is None

    def put(self, changes: Mapping[str, Any]) -> None:
        """Request ``changes``, all or none of them, after those that were put earlier."""
        names = frozenset(changes)
        with self._lock:
            self._waiting.pop(names, None)  # Removed first, so that the new change goes to the end.
            self._waiting[names] = changes
        self._send_in_loop(None)

    async def wait(self) -> None:
        """Wait until the node has answered all requests; cancellation leaves them in the queue.

        :raises FrankaError: one of them was refused since the last call, or not answered.
        """
        while not self.settled:
            self._answered.clear()
            await self._answered.wait()
        refusal, self._refusal = self._refusal, None
        if refusal is not None:
            raise refusal

    def clear(self) -> None:
        """Forget all changes and refusals; waiting calls return."""
        self._waiting.clear()
        self._sent = self._refusal = None
        self._answered.set()

    def _send_next(self) -> None:
        """Send the first waiting change, unless the node still has to answer.

        Not a task, which a program that cancels all of its tasks would end.
        """
        if self._sent is not None:
            return
        if not self._waiting:
            self._answered.set()
            self._on_settled()
            return
        request = SetParametersAtomically.Request()
        self._sent = request  # Before the change leaves the queue, or another thread could see neither.
        with self._lock:
            changes = self._waiting.pop(next(iter(self._waiting)))
        for name, value in changes.items():
            plain = value.tolist() if isinstance(value, np.ndarray) else value
            request.parameters.append(Parameter(name, value=plain).to_parameter_msg())

        def finish(refusal: FrankaError | None) -> None:
            if self._sent is request:
                self._refusal = refusal or self._refusal
                self._sent = None
                self._send_next()

        def on_answer(future: Any) -> None:
            timer.cancel()
            result = None if future.exception() is not None else future.result().result
            finish(None if result is None or result.successful else ConfigurationError(result.reason))

        late = ConnectionFailed(f"no answer from {self.service.srv_name} within {ANSWER_TIMEOUT:.0f} s")
        timer = asyncio.get_running_loop().call_later(ANSWER_TIMEOUT, finish, late)
        self._client.request(lambda: self.service.call_async(request), on_answer)


class NodeDiagnostics:
    """What a node says about its arm on ``/diagnostics``: how well its control loop runs, and why it stopped."""

    def __init__(self, node: str) -> None:
        self._prefix = f"{node.strip('/')}: "
        self._statuses: dict[str, DiagnosticStatus] = {}
        self._figures: dict[str, str] = {}
        self._received = asyncio.Event()

    def receive(self, message: DiagnosticArray) -> None:
        """Remember what concerns the node."""
        for status in message.status:
            if status.name.startswith(self._prefix):
                self._statuses[status.name.removeprefix(self._prefix)] = status
                if "response p50 [us]" in (figures := _values(status)):  # The control loop runs.
                    self._figures = figures
                    self._received.set()  # Wakes the calls that wait now; later ones wait for the next message.
                    self._received.clear()

    @property
    def missing_for_real_time(self) -> str:
        """What the node's computer lacks for real time; empty if nothing, or if it is not known yet."""
        return self._figures.get("missing for real time", "")

    async def measure(self, duration: float) -> ConnectionReport:
        """Measure the control loop for ``duration`` [s], and at least one period of the diagnostics.

        ``response_us`` has the median of the periods' medians and the largest of their 99th percentiles;
        ``longest_gap`` and ``success_rate_min`` cover the time since the activation.
        """
        first, begin = await self._next_figures(), time.monotonic()
        periods = [await self._next_figures()]
        while time.monotonic() < begin + duration:
            periods.append(await self._next_figures())
        last = periods[-1]
        return ConnectionReport(
            duration=time.monotonic() - begin,
            cycles=int(last["cycles"]) - int(first["cycles"]),
            cycles_lost=int(last["cycles lost"]) - int(first["cycles lost"]),
            longest_gap=int(last["longest gap [cycles]"]),
            success_rate_min=float(last["success rate min"]),
            response_us={
                "p50": statistics.median(float(period["response p50 [us]"]) for period in periods),
                "p99": max(float(period["response p99 [us]"]) for period in periods),
                "max": max(float(period["response max [us]"]) for period in periods),
            },
        )

    def loop_stats(self) -> dict[str, float]:
        """See :meth:`.Measuring.loop_stats`."""
        figures = self._figures
        if "response mean [us]" not in figures:
            raise NotStarted("the node has not published its diagnostics yet")
        return {
            "count": int(figures["cycles"]),
            "lost": int(figures["cycles lost"]),
            "longest_gap": int(figures["longest gap [cycles]"]),
            "busy_mean": 1e-6 * float(figures["response mean [us]"]),
            "busy_max": 1e-6 * float(figures["response longest [us]"]),
            "success_min": float(figures["success rate min"]),
        }

    async def _next_figures(self) -> dict[str, str]:
        await self._received.wait()
        return self._figures

    def reason(self, otherwise: FrankaError) -> FrankaError:
        """The robot's error as the node reports it; ``otherwise`` if it reports none."""
        status = self._statuses.get("robot")
        if status is None or status.level != DiagnosticStatus.ERROR:
            return otherwise
        values = _values(status)
        kind, message = values.get("kind of error", ""), values.get("last error", status.message)
        if kind == "ControlStopped":
            return ControlStopped(message, errors=tuple(values.get("libfranka errors", "").split()))
        found = getattr(errors, kind, None)
        # Only an error that is made from its message alone can be raised here as what it was.
        simple = isinstance(found, type) and issubclass(found, FrankaError) and found is not errors.IncompatibleRobot
        return found(message) if simple else ConnectionFailed(message)  # type: ignore[misc]


def _values(status: DiagnosticStatus) -> dict[str, str]:
    return {value.key: value.value for value in status.values}


class NodeConnection(RosClient):
    """A client of one node. Make subscriptions on :attr:`node`, then call :meth:`start`.

    :param name: full name of the node.
    :param client: name of this client's node; empty: a unique one.
    :param on_settled: called in the event loop when the node has answered all changes of parameters.
    :param on_refused_target: called in the event loop with refusals of targets, of any client.
    """

    def __init__(
        self, name: str, client: str, on_settled: Callable[[], None], on_refused_target: Callable[[Refusal], None]
    ) -> None:
        super().__init__(client or unique_name("aiofranka_client"))
        with contextlib.ExitStack() as failed:
            failed.callback(self.discard)
            self._name, node = name, self.node
            self._get_state = node.create_client(GetState, f"{name}/get_state")
            self._change_state = node.create_client(ChangeState, f"{name}/change_state")
            self._get_parameters = node.create_client(GetParameters, f"{name}/get_parameters")
            self._save_recording = node.create_client(Trigger, f"{name}/save_recording")
            self._move = action_client(node, PTPMotion, f"{name}/move")
            self.parameters = ParameterQueue(self, name, on_settled)
            self.diagnostics = NodeDiagnostics(name)
            self._goals = Goals(self, name, on_refused_target)
            self.refusals = self._goals.refusals
            self._targets = {
                "ee_desired": node.create_publisher(PoseStamped, f"{name}/ee_desired", 1),
                "ee_velocity": node.create_publisher(TwistStamped, f"{name}/twist_desired", 1),
                "q_desired": node.create_publisher(JointState, f"{name}/q_desired", 1),
                "dq_desired": node.create_publisher(JointState, f"{name}/dq_desired", 1),
                "torque": node.create_publisher(JointState, f"{name}/torque_desired", 1),
            }
            self._target_messages: dict[str, SerializedMessage] = {}
            self._simulated_time = False
            failed.pop_all()

    async def discover(self) -> None:
        """Wait until the node is on the graph.

        :raises ConnectionFailed: it is not.
        """
        services = (self._get_state, self._change_state, self._get_parameters, self.parameters.service)
        servers = [service.service_is_ready for service in services] + [self._move.server_is_ready]
        if not await self.ready(*servers, timeout=_DISCOVERY_TIMEOUT):
            raise ConnectionFailed(
                f"there is no node {self._name} on the ROS graph: does it run, under that name, in this ROS_DOMAIN_ID?"
            )

    async def lifecycle_state(self) -> State:
        """The state of the node; during a transition, the state after it.

        :raises FrankaError: no answer came.
        """
        return (await self.ask(self._get_state, GetState.Request(), _TRANSITION_TIMEOUT)).current_state

    def request_lifecycle_state(self, on_answer: Callable[[Any], None]) -> None:
        """Call ``on_answer`` in the event loop with rclpy's future of the state; does not wait."""
        self.request(lambda: self._get_state.call_async(GetState.Request()), on_answer)

    async def activate(self) -> bool:
        """Configure and activate the node as needed.

        :returns: whether it was not active before.
        :raises FrankaError: it could not be activated; the cause.
        """
        state = await self.lifecycle_state()
        if state.id == State.PRIMARY_STATE_ACTIVE:
            return False
        if state.id not in (State.PRIMARY_STATE_UNCONFIGURED, State.PRIMARY_STATE_INACTIVE):
            raise CommandRefused(f"the node {self._name} is {state.label}")
        if state.id == State.PRIMARY_STATE_UNCONFIGURED:
            await self._change("configure")
        await self._change("activate")
        return True

    async def deactivate(self, timeout: float) -> None:
        """Deactivate the node, if it is on the graph.

        :raises FrankaError: it could not be deactivated within ``timeout`` [s].
        """
        if self._change_state.service_is_ready():
            await self._change("deactivate", timeout)

    async def _change(self, transition: str, timeout: float = _TRANSITION_TIMEOUT) -> None:
        request = ChangeState.Request()
        request.transition.label = transition
        if not (await self.call(self._change_state, request, timeout)).success:
            await asyncio.sleep(REASON_DELAY)
            message = f"the node {self._name} could not {transition}: see its log"
            raise self.diagnostics.reason(CommandRefused(message))

    async def get_parameters(self, names: list[str]) -> list[Any]:
        """Values of parameters, in the order of ``names``.

        :raises FrankaError: no answer came.
        """
        answer = await self.ask(self._get_parameters, GetParameters.Request(names=names))
        return [parameter_value_to_python(value) for value in answer.values]

    async def save_recording(self) -> Path:
        """Have the node write a recording.

        :raises RecordingFailed: it could not.
        :raises ConnectionFailed: it does not answer, or does not offer that.
        """
        if not await self.ready(self._save_recording.service_is_ready, timeout=_DISCOVERY_TIMEOUT):
            raise ConnectionFailed(f"the node {self._name} does not offer {self._save_recording.srv_name}")
        answer = await self.call(self._save_recording, Trigger.Request(), _RECORDING_TIMEOUT)
        if not answer.success:
            raise RecordingFailed(answer.message)
        return Path(answer.message)

    def prepare_targets(self, names: ArmNames, simulated_time: bool) -> None:
        """Make the messages of :meth:`publish_target`, with the node's names of joints and frames and its clock."""

        def pose(target: Record) -> PoseStamped:
            x, y, z, qx, qy, qz, qw = target["values"].tolist()
            pose = Pose(position=Point(x=x, y=y, z=z), orientation=Quaternion(x=qx, y=qy, z=qz, w=qw))
            return PoseStamped(header=header_of(target, names), pose=pose)

        def twist(target: Record) -> TwistStamped:
            vx, vy, vz, wx, wy, wz, _ = target["values"].tolist()
            twist = Twist(linear=Vector3(x=vx, y=vy, z=vz), angular=Vector3(x=wx, y=wy, z=wz))
            return TwistStamped(header=header_of(target, names), twist=twist)

        def joints(target: Record, field: str) -> JointState:
            values: Any = {field: target["values"].tolist()}
            return JointState(header=header_of(target, names), name=list(names.joints), **values)

        self._target_messages = {
            "ee_desired": SerializedMessage(pose, _TARGET),
            "ee_velocity": SerializedMessage(twist, _TARGET),
            "q_desired": SerializedMessage(lambda target: joints(target, "position"), _TARGET),
            "dq_desired": SerializedMessage(lambda target: joints(target, "velocity"), _TARGET),
            "torque": SerializedMessage(lambda target: joints(target, "effort"), _TARGET),
        }
        self._simulated_time = simulated_time
        if simulated_time:
            self.node.set_parameters([Parameter("use_sim_time", value=True)])

    def publish_target(self, name: str, values: Array) -> None:
        """Publish a target, stamped now, in any thread; arguments as in :meth:`.Link.set_target`."""
        record = np.zeros(1, _TARGET)
        record["values"][0, : len(values)] = values
        # Without rclpy's clock and messages, which are slower, because the arm waits.
        record["stamp"] = self.node.get_clock().now().nanoseconds if self._simulated_time else time.time_ns()
        self._targets[name].publish(self._target_messages[name].of(record[0]))

    async def move(self, goal: Array, cancelled: asyncio.Event) -> None:
        """Move to ``goal`` [rad] (7,), until ``cancelled`` is set; begins when earlier changes are in force.

        :raises MoveFailed: the arm did not arrive; the cause.
        """
        await self.parameters.wait()
        request = PTPMotion.Goal(goal_joint_configuration=goal.tolist())
        try:
            outcome = await self._goals.pursue(self._move, f"{self._name}/move", request, cancelled)
        except InvalidTarget as error:
            raise MoveFailed(f"the node {self._name} refused the goal: {error}") from None
        by_us = cancelled.is_set() and outcome.status == GoalStatus.STATUS_CANCELED
        if outcome.status == GoalStatus.STATUS_SUCCEEDED or by_us:
            return
        if (await self.lifecycle_state()).id != State.PRIMARY_STATE_ACTIVE:
            await asyncio.sleep(_STOP_DELAY)
        raise MoveFailed(outcome.result.error_message or f"the node {self._name} gave no reason why the move failed")
