"""An arm behind a running node: the link behind ``FrankaController(RosInterface("aiofranka"))``.

Used by the controller, in the policy's process and event loop; rclpy has its own thread, see
:mod:`aiofranka_ros.api.ros_client`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from lifecycle_msgs.msg import State, TransitionEvent
from rcl_interfaces.msg import ParameterEvent
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.parameter import parameter_value_to_python
from rclpy.qos import qos_profile_parameter_events, qos_profile_sensor_data
from std_msgs.msg import Float64MultiArray, UInt8MultiArray

from aiofranka_ros.api.competition import Competition
from aiofranka_ros.api.link import ConnectionReport, Link, uninterrupted, until_stopped
from aiofranka_ros.api.node_connection import REASON_DELAY, NodeConnection
from aiofranka_ros.api.recording import Recording
from aiofranka_ros.api.ros_chunks import RosChunks
from aiofranka_ros.api.ros_gripper import RosGripper
from aiofranka_ros.arm.chunks import Ticket
from aiofranka_ros.arm.planning import check_goal
from aiofranka_ros.arm.setting_table import SETTINGS
from aiofranka_ros.arm.settings import ArmSettings
from aiofranka_ros.control.stamps import HeardClock
from aiofranka_ros.errors import (
    ConfigurationError,
    ConnectionFailed,
    ControlStopped,
    FrankaError,
    InvalidTarget,
    NotStarted,
)
from aiofranka_ros.kernels import Array
from aiofranka_ros.ros import ownership, refusals
from aiofranka_ros.ros.cycles import QOS, TOPIC, read_cycles
from aiofranka_ros.ros.messages import read_snapshot
from aiofranka_ros.ros.warnings import Warnings

_log = logging.getLogger(__name__)
_NAMES = [setting.name for setting in SETTINGS]

#: How long an active node may take to publish its state [s].
_STATE_TIMEOUT = 10.0
#: How long a node may take to deactivate the arm at the stop, and a lost node, which may be back or not [s].
_STOP_TIMEOUT, _LAST_TIMEOUT = 10.0, 3.0
#: An active node that is silent for this long is lost [s]; it publishes its state at 30 Hz or more.
_SILENCE_TIMEOUT = 1.0
#: How long a recording waits for its last rows if none comes [s]; they usually take a tenth of a second.
_LAST_ROWS = 1.0
#: How often to check for that [s].
_WATCH_PERIOD = 0.25
_NOT_ACTIVE = (State.PRIMARY_STATE_UNCONFIGURED, State.PRIMARY_STATE_INACTIVE, State.PRIMARY_STATE_FINALIZED)


class RosInterface(Link):
    """A Franka arm that a node drives, anywhere on the ROS graph.

    Nothing connects before :meth:`FrankaController.start() <.FrankaController.start>`, which configures and activates
    the node as needed. :meth:`FrankaController.stop() <.FrankaController.stop>` deactivates the node if the start
    activated it; otherwise it leaves the node active, holding the arm.

    :param node: name of the node, with its namespace, e.g. ``aiofranka`` or ``/left/aiofranka``.
    :param client: name of the ROS node that this object makes, e.g. for ``priority_clients``; empty: a unique one.
    """

    def __init__(self, node: str = "aiofranka", client: str = "") -> None:
        # Defaults, until the first start reads the node's parameters.
        super().__init__("/" + node.strip("/"), ArmSettings())
        self._client = client
        self._gripper = RosGripper(self.name)
        self._connection: NodeConnection | None = None
        self._chunks: RosChunks | None = None
        self._simulated_time = False
        self._clock = HeardClock()
        #: The connection from a successful start until the arm is stopped or lost.
        self._live: NodeConnection | None = None
        #: Whether this object activated the node.
        self._activated = False
        self._arm_active = False
        self._heard = 0.0
        self._watch: asyncio.TimerHandle | None = None
        self._changed_before_start: dict[str, Any] = {}
        self._warnings = Warnings(_log.warning)
        self._competition = Competition(self.name, "")
        #: The newest target, if changes of settings must be in force first.
        self._waiting_target: tuple[str, Array] | None = None

    @property
    def gripper(self) -> RosGripper:
        """See :attr:`.Link.gripper`; of the node ``franka_gripper`` in the namespace of the arm's node."""
        return self._gripper

    async def start(self, on_state: Callable[[], None], on_end: Callable[[Exception], None]) -> None:
        """See :meth:`.Link.start`; takes as long as the node's configuration."""
        self._on_state, self._on_end = on_state, on_end
        if self._connection is None:
            self._connection = self._connect()
        try:
            await uninterrupted(self._bring_up(self._connection))
        except BaseException:
            await uninterrupted(self.stop())
            raise
        # Last, without a wait after it: the controller would miss an end that is reported before it continues.
        self._waiting_target, self._live, self._heard = None, self._connection, time.monotonic()
        self._check_silence(overdue=False)

    async def stop(self) -> None:
        """See :meth:`.Link.stop`."""
        connection, self._connection = self._connection, None
        was_live, self._live = self._live is not None, None
        self._close_chunks("the arm was released")
        self._gripper.close()
        if self._watch is not None:
            self._watch.cancel()
        if connection is None:
            return
        try:
            if self._activated:
                await connection.deactivate(_STOP_TIMEOUT if was_live else _LAST_TIMEOUT)
        except FrankaError as error:
            if was_live:
                _log.warning("the arm of node %s may still be active: %s", self.name, error)
        finally:
            self._activated = self._arm_active = False
            connection.parameters.clear()
            await connection.close()

    def clock(self) -> int:
        """See :meth:`.Link.clock`: of the node's computer, which may be another one, or, if simulated, of the newest
        state."""
        return self.snapshot().stamp if self._simulated_time else self._clock.now()

    def switch(self, mode: str) -> None:
        """See :meth:`.Link.switch`."""
        self._waiting_target = None  # It is older than the switch.
        self.apply({"mode": mode})

    def apply(self, changes: Mapping[str, Any]) -> None:
        """See :meth:`.Link.apply`; :meth:`settled` raises if the node refuses them."""
        self.settings.update(changes)
        live = self._live  # The event loop may change it at any time.
        if live is not None:
            live.parameters.put(changes)
        else:
            self._changed_before_start |= changes

    def set_target(self, name: str, values: Array) -> None:
        """See :meth:`.Link.set_target`; sent after changes of settings that the node has not confirmed yet."""
        self._waiting_target = name, values
        self._competition.begun = True
        live = self._live
        if live is not None and live.parameters.settled:
            self._send_waiting_target()

    async def settled(self) -> None:
        """See :meth:`.Link.settled`."""
        if self._connection is not None:
            await self._connection.parameters.wait()

    def check_targets(self) -> None:
        """See :meth:`.Link.check_targets`."""
        self._competition.check()

    async def handed_back(self) -> None:
        """See :meth:`.Link.handed_back`."""
        await self._competition.handed_back()

    async def move(self, goal: Array) -> None:
        """See :meth:`.Link.move`."""
        check_goal(goal, self.settings.names.joints)
        await until_stopped(lambda cancelled: self._require_connection().move(goal, cancelled))

    async def follow(self, kind: str, values: Array, times: Array, start: int | None, gripper: Array | None) -> Ticket:
        """See :meth:`.Link.follow`; ``gripper`` goes to the node ``franka_gripper`` in the namespace of the arm's node.

        :raises GripperFailed: there is no such node.
        """
        try:
            return await self._require_chunks().follow(kind, values, times, start, gripper)
        except InvalidTarget as error:
            raise self._competition.explained(error) from None

    def committed(self, n: int, dt: float, start: int | None) -> tuple[Array, int]:
        """See :meth:`.Link.committed`."""
        return self._require_chunks().committed(n, dt, start, self.settings["chunk_freeze"])

    def inference_delay(self, dt: float, quantile: float) -> int:
        """See :meth:`.Link.inference_delay`."""
        return self._require_chunks().inference_delay(dt, quantile)

    def stop_following(self) -> None:
        """See :meth:`.Link.stop_following`."""
        if self._chunks is not None:
            self._chunks.stop()

    def record(self, recording: Recording) -> None:
        """See :meth:`.Link.record`; from the topic ``~/cycles``.

        Its end waits for the last rows, which come within a tenth of a second, unless this process is busy.
        """
        # rclpy's thread only keeps the messages: if other threads of this process compute, it has little time.
        received: deque[bytes] = deque()
        lock = threading.Lock()

        def read() -> None:
            with lock:
                for _ in range(len(received)):  # Not those that come during this.
                    try:
                        recording.take(read_cycles(received.popleft()))
                    except FrankaError as error:
                        self._warnings.warn("cycles", str(error))

        def finish() -> None:
            recording.wait_until(self.clock(), _LAST_ROWS)
            end()

        recording.follow(read, finish, self.clock())
        end = self._require_connection().subscribe(UInt8MultiArray, f"{self.name}/{TOPIC}", received.append, QOS)

    def loop_stats(self) -> dict[str, float]:
        """See :meth:`.Link.loop_stats`; from the node's diagnostics."""
        return self._require_connection().diagnostics.loop_stats()

    async def save_recording(self) -> Path:
        """See :meth:`.Link.save_recording`; on the node's computer."""
        return await self._require_connection().save_recording()

    async def measure_connection(self, duration: float) -> ConnectionReport:
        """See :meth:`.Link.measure_connection` and :meth:`.NodeDiagnostics.measure`."""
        return await self._require_connection().diagnostics.measure(duration)

    def _connect(self) -> NodeConnection:
        connection = NodeConnection(self.name, self._client, self._send_waiting_target, self._on_refused_target)
        self._competition = Competition(self.name, connection.node.get_fully_qualified_name())
        try:
            self._listen(connection)
            self._chunks = RosChunks(connection, self.name, self.clock)
            self._gripper.open(connection)
            connection.start()
        except BaseException:
            self._gripper.close()
            connection.discard()
            raise
        return connection

    def _listen(self, connection: NodeConnection) -> None:
        """Subscribe to what the node publishes."""
        subscribe, in_loop = connection.node.create_subscription, connection.in_loop
        subscribe(TransitionEvent, f"{self.name}/transition_event", in_loop(self._on_transition), 10)
        subscribe(DiagnosticArray, "/diagnostics", in_loop(connection.diagnostics.receive), 10)
        subscribe(DiagnosticArray, "/diagnostics", in_loop(self._gripper.diagnose), 10)
        subscribe(DiagnosticStatus, f"{self.name}/{refusals.TOPIC}", in_loop(connection.refusals.receive), refusals.QOS)
        subscribe(DiagnosticStatus, f"{self.name}/{ownership.TOPIC}", in_loop(self._on_owner), ownership.QOS)
        self._clock = clock = HeardClock()
        on_parameters = in_loop(self._on_parameters)
        subscribe(ParameterEvent, "/parameter_events", on_parameters, qos_profile_parameter_events)
        announce = in_loop(self._on_snapshot)

        def receive(data: bytes) -> None:
            """In rclpy's thread, so that the state is new even while the event loop is blocked."""
            # The node may run another version of this package; then the start reports that no state came.
            with contextlib.suppress(InvalidTarget):
                self._newest, self._arm_active = read_snapshot(data)
                clock.hear(self._newest.stamp)
                self._keep(self._newest)
                self._heard = time.monotonic()
                announce(None)

        # A separate callback group, because policies wait for the state.
        options = {"callback_group": ReentrantCallbackGroup(), "raw": True}
        subscribe(Float64MultiArray, f"{self.name}/state", receive, qos_profile_sensor_data, **options)

    async def _bring_up(self, connection: NodeConnection) -> None:
        """:raises FrankaError: the arm is not active; the cause."""
        await connection.discover()
        self._activated |= await connection.activate()
        *values, simulated_time = await connection.get_parameters([*_NAMES, "use_sim_time"])
        self.settings.update(dict(zip(_NAMES, values, strict=True)))
        connection.prepare_targets(self.settings.names, simulated_time)
        self._simulated_time = simulated_time
        changes, self._changed_before_start = self._changed_before_start, {}
        if changes:
            self.settings.update(changes)
            connection.parameters.put(changes)
        await connection.parameters.wait()
        self._arm_active = False
        if not await connection.ready(lambda: self._arm_active, timeout=_STATE_TIMEOUT):
            raise ConnectionFailed(f"the node {self.name} does not publish its state")
        if missing := connection.diagnostics.missing_for_real_time:
            _log.warning("the computer of node %s lacks for real time: %s", self.name, missing)

    def _require_connection(self) -> NodeConnection:
        if self._connection is None:
            raise NotStarted("the controller does not run")
        return self._connection

    def _require_chunks(self) -> RosChunks:
        if self._chunks is None:
            raise NotStarted("the controller does not run")
        return self._chunks

    def _close_chunks(self, reason: str) -> None:
        if self._chunks is not None:
            self._chunks.close(reason)

    def _send_waiting_target(self) -> None:
        live, target, self._waiting_target = self._live, self._waiting_target, None
        if target is not None and live is not None:
            live.publish_target(*target)

    # Messages from the node.

    def _on_refused_target(self, refusal: refusals.Refusal) -> None:
        """Of any client, since the node began."""
        connection = self._live
        if connection is not None and refusal.publisher == connection.node.get_fully_qualified_name():
            message = f"the node {self.name} refused {refusal.what}: {refusal.message}"
            self._warnings.warn(refusal.what, message)
            self._competition.refused(message, refusal.reason)

    def _on_owner(self, message: DiagnosticStatus) -> None:
        self._competition.owned(*ownership.Ownership.of(message))

    def _on_snapshot(self, _: None) -> None:
        if self._live is not None:
            self._on_state()
            if not self._arm_active:
                self._end_soon()

    def _on_transition(self, event: TransitionEvent) -> None:
        # Events of the start may arrive late, so only the present state of the node counts.
        if self._live is not None and event.goal_state.id in _NOT_ACTIVE:
            self._live.request_lifecycle_state(self._on_lifecycle_state)

    def _on_lifecycle_state(self, future: Any) -> None:
        if future.exception() is None and future.result().current_state.id in _NOT_ACTIVE:
            self._end_soon()

    def _on_parameters(self, event: ParameterEvent) -> None:
        if event.node == self.name and self._connection is not None and self._connection.parameters.settled:
            changes = {value.name: parameter_value_to_python(value.value) for value in event.changed_parameters}
            with contextlib.suppress(ConfigurationError):  # Parameters of ROS itself, such as use_sim_time.
                self.settings.update(changes)

    # The end.

    def _check_silence(self, overdue: bool) -> None:
        """End it if the node was silent for too long at two checks in a row, with time to hear it in between.

        The event loop may have been blocked, or busy threads may have kept rclpy's thread waiting.
        """
        live = self._live
        if live is None:
            return
        silent = time.monotonic() - self._heard > _SILENCE_TIMEOUT
        if silent and overdue:
            self._end(
                ConnectionFailed(
                    f"nothing was heard of the node {self.name} for {_SILENCE_TIMEOUT:g} s: it died, it hangs, or the "
                    "network is down"
                )
            )
        elif silent:
            live.after_turn(lambda: self._check_later(live, overdue=True))
        else:
            self._check_later(live, overdue=False)

    def _check_later(self, live: NodeConnection, overdue: bool) -> None:
        if live is self._live:
            self._watch = asyncio.get_running_loop().call_later(_WATCH_PERIOD, self._check_silence, overdue)

    def _end_soon(self) -> None:
        """The node is not active any more: end it when the reason has had time to arrive."""
        if self._live is not None:
            asyncio.get_running_loop().call_later(REASON_DELAY, self._end_with_reason, self._live)
            self._live, self._activated = None, False

    def _end_with_reason(self, connection: NodeConnection) -> None:
        if connection is self._connection:  # Not if it was stopped since.
            self._end(connection.diagnostics.reason(ControlStopped(f"the node {self.name} was deactivated")))

    def _end(self, error: FrankaError) -> None:
        self._live = None
        if self._watch is not None:
            self._watch.cancel()
        if self._connection is not None:
            self._connection.parameters.clear()
            self._close_chunks(str(error))
            self._connection.abandon(error)
            self._on_end(error)
