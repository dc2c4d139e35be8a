"""An arm behind a running node: what ``FrankaController(RosInterface("aiofranka"))`` stands on.

Used by policies, in their process and their event loop. It needs nothing but the ROS graph; rclpy runs in a thread of
its own, see :mod:`aiofranka_ros.api.ros_client`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from action_msgs.msg import GoalStatus
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from franka_msgs.action import PTPMotion
from geometry_msgs.msg import Point, Pose, PoseStamped, Quaternion
from lifecycle_msgs.msg import State, TransitionEvent
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.msg import ParameterEvent
from rcl_interfaces.srv import GetParameters, SetParametersAtomically
from rclpy.action import ActionClient
from rclpy.action.client import ClientGoalHandle
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.parameter import Parameter, parameter_value_to_python
from rclpy.publisher import Publisher
from rclpy.qos import qos_profile_parameter_events, qos_profile_sensor_data
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray

from aiofranka_ros import errors
from aiofranka_ros.api.link import ConnectionReport, Data, uninterrupted
from aiofranka_ros.api.ros_client import RosClient
from aiofranka_ros.arm.planning import check_goal
from aiofranka_ros.arm.setting_table import SETTINGS
from aiofranka_ros.arm.settings import ArmSettings
from aiofranka_ros.control.records import Mode
from aiofranka_ros.control.snapshot import Snapshot
from aiofranka_ros.errors import (
    CommandRefused,
    ConfigurationError,
    ConnectionFailed,
    ControlStopped,
    FrankaError,
    InvalidTarget,
    MoveFailed,
    NotStarted,
)
from aiofranka_ros.kernels import Array, Record
from aiofranka_ros.model.kinematics import quaternion_from_matrix
from aiofranka_ros.model.names import ArmNames
from aiofranka_ros.ros import messages
from aiofranka_ros.ros.cdr import SerializedMessage

_log = logging.getLogger(__name__)
_NAMES = [setting.name for setting in SETTINGS]

#: How long the graph gets to show the node, and the node to answer what it answers at once [s].
_DISCOVERY_TIMEOUT, _ANSWER_TIMEOUT = 10.0, 10.0
#: How often the result of a move is asked for that is still to come [s].
_RESULT_PERIOD = 5.0
#: Configuring may compile the control process's kernels, which takes half a minute [s].
_TRANSITION_TIMEOUT = 200.0
#: How long a node that was lost gets to deactivate the arm [s].
_LAST_TIMEOUT = 3.0
#: An active node that is silent for so long is lost [s]; it publishes its state at 30 Hz or more.
_SILENCE_TIMEOUT = 1.0
#: How often that is looked after [s].
_WATCH_PERIOD = 0.25
_NOT_ACTIVE = (State.PRIMARY_STATE_UNCONFIGURED, State.PRIMARY_STATE_INACTIVE, State.PRIMARY_STATE_FINALIZED)
#: How long the reason of an end may take to arrive after the end [s].
_REASON_DELAY = 0.1


class RosInterface:
    """A Franka arm that a node drives, anywhere on the ROS graph.

    Nothing is connected before :meth:`FrankaController.start() <.FrankaController.start>`. That configures and
    activates the node as needed; :meth:`FrankaController.stop() <.FrankaController.stop>` deactivates it if the start
    had activated it, and else leaves it active, holding.

    :param node: name of the node, with its namespace, e.g. ``aiofranka`` or ``/left/aiofranka``.
    """

    def __init__(self, node: str = "aiofranka") -> None:
        self._name = "/" + node.strip("/")
        #: The node's parameters, as far as they are known: defaults before the first start.
        self.settings = ArmSettings()
        #: The newest measured positions, velocities and torques.
        self.data = Data(self)
        self._client: RosClient | None = None
        self._on_state: Callable[[], None] = lambda: None
        self._on_end: Callable[[Exception], None] = lambda error: None
        #: Between a successful start and whatever ends it.
        self._started = False
        #: Whether the node is active because of this object.
        self._activated = False
        self._newest: Snapshot | None = None
        self._arm_active = False
        self._heard = 0.0
        self._watch: asyncio.TimerHandle | None = None
        self._statuses: dict[str, DiagnosticStatus] = {}
        self._diagnosed: asyncio.Event = asyncio.Event()
        self._loop_figures: list[dict[str, str]] = []
        # Changes of parameters, by their names, that the node is still to be asked for; the request that it has not
        # answered yet; and the target that waits for all of them.
        self._waiting_changes: dict[frozenset[str], Mapping[str, Any]] = {}
        self._unanswered: SetParametersAtomically.Request | None = None
        self._confirmed = asyncio.Event()
        self._waiting_target: Mapping[str, Array] | None = None
        self._refusal: FrankaError | None = None
        # By the first field of a target: where to publish it, its message, and the record that this is made of.
        self._target_publishers: dict[str, Publisher] = {}
        self._target_messages: dict[str, tuple[npt.NDArray[Any], SerializedMessage]] = {}
        self._simulated_time = False
        self._changed_before_start: dict[str, Any] = {}

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self.name}>"

    @property
    def name(self) -> str:
        """Name of the node."""
        return self._name

    @property
    def state(self) -> dict[str, Any]:
        """The newest measured state, see :attr:`FrankaController.state <.FrankaController.state>`."""
        return self.snapshot().as_state()

    # What the controller asks for.

    async def start(self, on_state: Callable[[], None], on_end: Callable[[Exception], None]) -> None:
        """See :meth:`.Link.start`. Cancelled, it first comes to its end: as long as the node takes to be configured."""
        self._on_state, self._on_end = on_state, on_end
        await uninterrupted(self._start())

    async def stop(self) -> None:
        """See :meth:`.Link.stop`. Cancelled, it first comes to its end."""
        await uninterrupted(self._stop())

    def snapshot(self) -> Snapshot:
        """See :meth:`.Link.snapshot`; the newest one received."""
        if self._newest is None:
            raise NotStarted("nothing was measured yet: await controller.start() first")
        return self._newest

    def switch(self, mode: str) -> None:
        """See :meth:`.Link.switch`."""
        same = mode == self.settings["mode"]
        self.apply({"mode": mode})
        if same and self._newest is not None and mode != "torque":
            # The node sees no change; targets shall begin where the arm is nevertheless.
            self.set_target(_where_it_is(self._newest, mode))

    def apply(self, changes: Mapping[str, Any]) -> None:
        """See :meth:`.Link.apply`; :meth:`settled` tells whether the node accepted them."""
        self.settings.update(changes)
        if not self._started or self._client is None:
            self._changed_before_start |= changes
        else:
            self._set_parameters(self._client, changes)

    def set_target(self, target: Mapping[str, Array]) -> None:
        """See :meth:`.Link.set_target`; it follows changes that are under way."""
        if self._unsettled:
            self._waiting_target = target
        else:
            self._publish(target)

    async def settled(self) -> None:
        """See :meth:`.Link.settled`."""
        while self._unsettled:
            self._confirmed.clear()
            await self._confirmed.wait()
        refusal, self._refusal = self._refusal, None
        if refusal is not None:
            raise refusal

    async def move(self, goal: Array) -> None:
        """See :meth:`.Link.move`."""
        check_goal(goal, self.settings.names.joints)
        cancelled = asyncio.Event()
        task = asyncio.ensure_future(self._pursue(goal, cancelled))
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            cancelled.set()
            # Stopped by something else than the cancellation: the next call tells of it.
            with contextlib.suppress(FrankaError):
                await uninterrupted(task)
            raise

    async def measure_connection(self, duration: float) -> ConnectionReport:
        """See :meth:`.Link.measure_connection`; from the node's diagnostics, so at least one of their periods.

        ``response_us`` has the median of their periods' medians and the largest of their 99th percentiles;
        ``longest_gap`` and ``success_rate_min`` are counted from the activation on.
        """
        await self._next_diagnostics()
        begin, self._loop_figures = time.monotonic(), self._loop_figures[-1:]
        await asyncio.sleep(duration)
        await self._next_diagnostics()
        took, (first, *periods) = time.monotonic() - begin, self._loop_figures
        last = periods[-1]
        return ConnectionReport(
            duration=took,
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

    # Bringing the node up and letting it go.

    async def _start(self) -> None:
        if self._client is None:
            self._client = self._make_client()
            self._client.start()
        try:
            await self._bring_up(self._client)
        except BaseException:
            await self._stop()
            raise

    def _make_client(self) -> RosClient:
        client, name = RosClient("aiofranka_client"), self._name
        node = client.node
        self._get_state = node.create_client(GetState, f"{name}/get_state")
        self._change_state = node.create_client(ChangeState, f"{name}/change_state")
        self._get = node.create_client(GetParameters, f"{name}/get_parameters")
        self._set = node.create_client(SetParametersAtomically, f"{name}/set_parameters_atomically")
        self._move = ActionClient(node, PTPMotion, f"{name}/move")
        self._target_publishers = {
            "target_position": node.create_publisher(PoseStamped, f"{name}/ee_desired", 1),
            "target_q": node.create_publisher(JointState, f"{name}/q_desired", 1),
            "target_torque": node.create_publisher(JointState, f"{name}/torque_desired", 1),
        }
        for kind, topic, callback, qos in (
            (TransitionEvent, f"{name}/transition_event", client.in_loop(self._on_transition), 10),
            (DiagnosticArray, "/diagnostics", client.in_loop(self._on_diagnostics), 10),
            (ParameterEvent, "/parameter_events", client.in_loop(self._on_parameters), qos_profile_parameter_events),
        ):
            node.create_subscription(kind, topic, callback, qos)
        node.create_subscription(
            Float64MultiArray,
            f"{name}/state",
            self._take_state,
            qos_profile_sensor_data,
            callback_group=ReentrantCallbackGroup(),  # Of its own: it is what policies wait for.
            raw=True,
        )
        self._announce_state = client.in_loop(self._on_snapshot)
        return client

    async def _bring_up(self, client: RosClient) -> None:
        """:raises FrankaError: the arm is not active, and why."""
        services = (self._get_state, self._change_state, self._get, self._set)
        ready = [service.service_is_ready for service in services] + [self._move.server_is_ready]
        if not await client.ready(*ready, timeout=_DISCOVERY_TIMEOUT):
            raise ConnectionFailed(
                f"there is no node {self._name} on the ROS graph: does it run, under that name, in this ROS_DOMAIN_ID?"
            )
        await self._activate(client)
        answer = await self._call(client, self._get, GetParameters.Request(names=[*_NAMES, "use_sim_time"]))
        *values, self._simulated_time = (parameter_value_to_python(value) for value in answer.values)
        if self._simulated_time:  # Stamps of targets are of the node's clock.
            client.node.set_parameters([Parameter("use_sim_time", value=True)])
        self.settings.update(dict(zip(_NAMES, values, strict=True)))
        self._target_messages = _target_messages(self.settings.names)
        changes, self._changed_before_start = self._changed_before_start, {}
        if changes:
            self.settings.update(changes)
            self._set_parameters(client, changes)
        await self.settled()
        self._arm_active = False
        if not await client.ready(lambda: self._arm_active, timeout=_ANSWER_TIMEOUT):
            raise ConnectionFailed(f"the node {self._name} does not publish its state")
        self._started = True
        self._heard = time.monotonic()
        self._keep_watch(overdue=False)
        missing = self._loop_figures[-1].get("missing for real time") if self._loop_figures else ""
        if missing:
            _log.warning("the node %s misses for real time: %s", self._name, missing)

    async def _activate(self, client: RosClient) -> None:
        """Bring the node into its active state, whatever state it is in."""
        state = await self._lifecycle_state(client)
        if state.id == State.PRIMARY_STATE_ACTIVE:
            return
        if state.id not in (State.PRIMARY_STATE_UNCONFIGURED, State.PRIMARY_STATE_INACTIVE):
            raise CommandRefused(f"the node {self._name} is {state.label}")
        if state.id == State.PRIMARY_STATE_UNCONFIGURED:
            await self._change(client, "configure")
        await self._change(client, "activate")
        self._activated = True

    async def _stop(self) -> None:
        was_started, self._started = self._started, False
        client, self._client = self._client, None
        if self._watch is not None:
            self._watch.cancel()
        if client is None:
            return
        try:
            if self._activated and self._change_state.service_is_ready():
                # A node that was not heard of may be there again, or not.
                patience = _TRANSITION_TIMEOUT if was_started else _LAST_TIMEOUT
                with contextlib.suppress(FrankaError):
                    await self._change(client, "deactivate", patience)
        finally:
            self._activated = self._arm_active = False
            self._forget_changes()
            self._statuses.clear()
            self._loop_figures.clear()
            client.abandon(NotStarted("the controller was stopped"), for_good=True)
            await asyncio.get_running_loop().run_in_executor(None, client.close)

    async def _lifecycle_state(self, client: RosClient) -> State:
        # The node answers after a transition that it is just making.
        answer = await self._call(client, self._get_state, GetState.Request(), _TRANSITION_TIMEOUT)
        return answer.current_state

    async def _change(self, client: RosClient, transition: str, timeout: float = _TRANSITION_TIMEOUT) -> None:
        """:raises FrankaError: the transition failed, and why."""
        request = ChangeState.Request()
        request.transition.label = transition
        answer = await self._call(client, self._change_state, request, timeout)
        if not answer.success:
            await asyncio.sleep(_REASON_DELAY)
            raise self._reason(CommandRefused(f"the node {self._name} could not {transition}: see its log"))

    async def _call(self, client: RosClient, service: Any, request: Any, timeout: float = _ANSWER_TIMEOUT) -> Any:
        """:raises FrankaError: no answer came."""
        return await self._answer(client, service.srv_name, lambda: service.call_async(request), timeout)

    async def _answer(
        self, client: RosClient, name: str, send: Callable[[], Any], timeout: float = _ANSWER_TIMEOUT
    ) -> Any:
        try:
            return await client.answer(send, timeout)
        except asyncio.TimeoutError:
            raise _no_answer(name, timeout) from None

    # What comes from the graph.

    def _take_state(self, data: bytes) -> None:
        """In rclpy's thread: what was measured is new even while the event loop is blocked."""
        try:
            self._newest, self._arm_active = messages.read_snapshot(data)
        except InvalidTarget:
            return  # Of another version of this package; the start says that nothing came.
        self._heard = time.monotonic()
        self._announce_state(None)

    def _on_snapshot(self, _: None) -> None:
        if self._started:
            self._on_state()
            if not self._arm_active:
                self._end_soon()

    def _on_transition(self, event: TransitionEvent) -> None:
        # Events of the start itself may arrive late: the state that the node is in now is what counts.
        if self._started and event.goal_state.id in _NOT_ACTIVE and self._client is not None:
            self._client.request(lambda: self._get_state.call_async(GetState.Request()), self._on_lifecycle_state)

    def _on_lifecycle_state(self, future: Any) -> None:
        if self._started and future.exception() is None and future.result().current_state.id in _NOT_ACTIVE:
            self._end_soon()

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            node, _, what = status.name.partition(": ")
            if node == self._name.strip("/"):
                self._statuses[what] = status
                if what == "control loop":
                    figures = {value.key: value.value for value in status.values}
                    if "response p50 [us]" in figures:
                        self._loop_figures.append(figures)
                        del self._loop_figures[:-1000]
                        self._diagnosed.set()

    async def _next_diagnostics(self) -> None:
        self._diagnosed.clear()
        await self._diagnosed.wait()

    def _on_parameters(self, event: ParameterEvent) -> None:
        if event.node == self._name and not self._unsettled:
            changes = {value.name: parameter_value_to_python(value.value) for value in event.changed_parameters}
            with contextlib.suppress(ConfigurationError):  # ROS's own, such as use_sim_time.
                self.settings.update(changes)

    # How it ends.

    def _keep_watch(self, overdue: bool) -> None:
        """End it when the node was silent for too long, twice in a row: the event loop itself may have been blocked."""
        silent = time.monotonic() - self._heard > _SILENCE_TIMEOUT
        if silent and overdue:
            self._end(
                ConnectionFailed(
                    f"nothing was heard of the node {self._name} for {_SILENCE_TIMEOUT:g} s: it died, it hangs, or the "
                    "network is gone"
                )
            )
        elif self._started:
            self._watch = asyncio.get_running_loop().call_later(_WATCH_PERIOD, self._keep_watch, silent)

    def _end_soon(self) -> None:
        """End it when the reason had time to arrive: the node is not active any more."""
        self._started = self._activated = False
        reason = ControlStopped(f"the node {self._name} was deactivated")
        asyncio.get_running_loop().call_later(_REASON_DELAY, lambda: self._end(self._reason(reason)))

    def _end(self, error: FrankaError) -> None:
        self._started = False
        if self._watch is not None:
            self._watch.cancel()
        self._forget_changes()
        if self._client is not None:
            self._client.abandon(error)
            self._on_end(error)

    def _reason(self, otherwise: FrankaError) -> FrankaError:
        """What the node says went wrong; ``otherwise`` where it says nothing."""
        status = self._statuses.get("robot")
        if status is None or status.level != DiagnosticStatus.ERROR:
            return otherwise
        values = {value.key: value.value for value in status.values}
        kind, message = values.get("kind of error", ""), values.get("last error", status.message)
        if kind == "ControlStopped":
            return ControlStopped(message, errors=tuple(values.get("libfranka errors", "").split()))
        found = getattr(errors, kind, None)
        # Those with more to say than a message are known by their message here.
        simple = isinstance(found, type) and issubclass(found, FrankaError) and found is not errors.IncompatibleRobot
        return found(message) if simple else ConnectionFailed(message)  # type: ignore[misc]

    # Parameters, targets, moves.

    @property
    def _unsettled(self) -> bool:
        """Whether the node is still to be asked for changes, or to answer."""
        return bool(self._waiting_changes) or self._unanswered is not None

    def _set_parameters(self, client: RosClient, changes: Mapping[str, Any]) -> None:
        """Ask the node for ``changes`` when it has answered what it was asked before.

        One after the other, because DDS keeps ten requests for a busy node, and the eleventh replaces the first.
        """
        names = frozenset(changes)
        self._waiting_changes.pop(names, None)  # The node has not seen them, and need not.
        self._waiting_changes[names] = changes
        client.in_loop(self._ask)(client)

    def _ask(self, client: RosClient) -> None:
        """Ask the node for the first of the changes that wait, unless it still has to answer."""
        if self._unanswered is not None or client is not self._client:
            return
        if not self._waiting_changes:
            self._confirmed.set()
            target, self._waiting_target = self._waiting_target, None
            if target is not None:
                self._publish(target)
            return
        names = next(iter(self._waiting_changes))
        request = SetParametersAtomically.Request()
        self._unanswered = request  # Before it ceases to wait, or another thread could believe that nothing is left.
        for name, value in self._waiting_changes.pop(names).items():
            plain = value.tolist() if isinstance(value, np.ndarray) else value
            request.parameters.append(Parameter(name, value=plain).to_parameter_msg())

        def go_on(refusal: FrankaError | None) -> None:
            if self._unanswered is request:
                self._refusal = refusal or self._refusal
                self._unanswered = None
                self._ask(client)

        def answered(future: Any) -> None:
            timer.cancel()
            result = None if future.exception() is not None else future.result().result
            go_on(None if result is None or result.successful else ConfigurationError(result.reason))

        timer = asyncio.get_running_loop().call_later(
            _ANSWER_TIMEOUT, lambda: go_on(_no_answer(self._set.srv_name, _ANSWER_TIMEOUT))
        )
        client.request(lambda: self._set.call_async(request), answered)

    def _forget_changes(self) -> None:
        self._waiting_changes.clear()
        self._unanswered = self._waiting_target = self._refusal = None
        self._confirmed.set()

    def _publish(self, target: Mapping[str, Array]) -> None:
        client = self._client
        if client is None or not self._started:
            return
        kind = next(iter(target))
        record, serialized = self._target_messages[kind]
        for name, values in target.items():
            record[name] = values
        # Past rclpy where both are the same, because the arm waits.
        now = client.node.get_clock().now().nanoseconds if self._simulated_time else time.time_ns()
        record["stamp"] = now
        self._target_publishers[kind].publish(serialized.of(record.view(np.uint8).data))

    async def _pursue(self, goal: Array, cancelled: asyncio.Event) -> None:
        """Move to ``goal``, until ``cancelled`` is set.

        :raises MoveFailed: it did not arrive.
        """
        client = self._client
        if client is None:
            raise NotStarted("the controller does not run")
        await self.settled()
        request = PTPMotion.Goal(goal_joint_configuration=goal.tolist())
        name = f"{self._name}/move"
        handle = await self._answer(client, name, lambda: self._move.send_goal_async(request))
        if not handle.accepted:
            raise MoveFailed(f"the node {self._name} rejected the goal: see its log")
        result = asyncio.ensure_future(_result(client, handle))
        change_of_mind = asyncio.ensure_future(cancelled.wait())
        try:
            await asyncio.wait([result, change_of_mind], return_when=asyncio.FIRST_COMPLETED)
            if not result.done():
                await self._answer(client, name, handle.cancel_goal_async)
            outcome = await result
        finally:
            change_of_mind.cancel()
            if not result.cancel() and not result.cancelled():
                result.exception()  # Told of already, here or by the cancellation that failed: asyncio need not log it.
        by_us = cancelled.is_set() and outcome.status == GoalStatus.STATUS_CANCELED
        if outcome.status == GoalStatus.STATUS_SUCCEEDED or by_us:
            return
        # Where the robot stopped, what stopped it is the better error; it is on its way.
        state = await self._lifecycle_state(client)
        if state.id != State.PRIMARY_STATE_ACTIVE:
            await asyncio.sleep(_SILENCE_TIMEOUT)
        raise MoveFailed(outcome.result.error_message or f"the node {self._name} does not know how it ended")


async def _result(client: RosClient, goal: ClientGoalHandle) -> Any:
    """The result of a goal, whenever it comes. It is asked for repeatedly, because an answer may be lost on its way."""
    while True:
        with contextlib.suppress(asyncio.TimeoutError):
            return await client.answer(goal.get_result_async, _RESULT_PERIOD)


def _no_answer(name: str, timeout: float) -> ConnectionFailed:
    return ConnectionFailed(f"no answer from {name} within {timeout:.0f} s")


def _target_messages(names: ArmNames) -> dict[str, tuple[npt.NDArray[Any], SerializedMessage]]:
    """The messages of targets, by their first field, and the records that they are made of."""

    def pose(target: Record) -> PoseStamped:
        x, y, z = target["target_position"].tolist()
        qx, qy, qz, qw = target["target_orientation"].tolist()
        pose = Pose(position=Point(x=x, y=y, z=z), orientation=Quaternion(x=qx, y=qy, z=qz, w=qw))
        return PoseStamped(header=messages.header_of(target, names), pose=pose)

    def joints(target: Record, **values: Any) -> JointState:
        return JointState(header=messages.header_of(target, names), name=list(names.joints), **values)

    kinds: dict[str, tuple[Callable[[Record], Any], list[tuple[Any, ...]]]] = {
        "target_position": (pose, [("target_position", "f8", (3,)), ("target_orientation", "f8", (4,))]),
        "target_q": (lambda t: joints(t, position=t["target_q"].tolist()), [("target_q", "f8", (7,))]),
        "target_torque": (lambda t: joints(t, effort=t["target_torque"].tolist()), [("target_torque", "f8", (7,))]),
    }
    return {
        kind: (np.zeros(1, dtype := np.dtype([("stamp", "i8"), *fields])), SerializedMessage(message_of, dtype))
        for kind, (message_of, fields) in kinds.items()
    }


def _where_it_is(snapshot: Snapshot, mode: str) -> dict[str, Array]:
    """The target of ``mode`` that leaves the arm where it is."""
    if Mode.parse(mode) is not Mode.OSC:
        return {"target_q": snapshot.q}
    orientation = np.empty(4)
    quaternion_from_matrix(snapshot.ee, orientation)
    return {"target_position": snapshot.ee[:3, 3], "target_orientation": orientation}
