"""The lifecycle node: it owns the control process, takes requests from the graph, and reports what happens.

Run by :mod:`aiofranka_ros.node.__main__` in a process with one thread: everything runs on one executor
(:mod:`aiofranka_ros.ros.executor`), so nothing here needs a lock. Nothing here has to be fast: the control process
(:mod:`aiofranka_ros.control.process`) drives the arm, and continues safely whatever happens here.

:mod:`aiofranka_ros.arm.driver` documents what configure, activate, deactivate and cleanup do to the arm.
"""

from __future__ import annotations

import contextlib
import os
import traceback
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from rcl_interfaces.msg import SetParametersResult
from rcl_interfaces.srv import SetParameters, SetParametersAtomically
from rclpy.callback_groups import CallbackGroup, ReentrantCallbackGroup
from rclpy.clock import Clock, ClockType
from rclpy.impl.rcutils_logger import RcutilsLogger
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.task import Future
from std_msgs.msg import String

from aiofranka_ros.arm.driver import Driver
from aiofranka_ros.arm.moves import Mover
from aiofranka_ros.control.client import ControlClient
from aiofranka_ros.control.law.motion import Motion
from aiofranka_ros.control.robot_records import RobotSetting
from aiofranka_ros.control.setting import Stage
from aiofranka_ros.errors import ControlProcessDied, ControlStopped, FrankaError, Interrupted, NameTaken
from aiofranka_ros.kernels import Array
from aiofranka_ros.node.chunks import ChunkTopics
from aiofranka_ros.node.cycles import CycleTopic
from aiofranka_ros.node.diagnostics import DiagnosticsTopic, Trouble
from aiofranka_ros.node.frames import Frames
from aiofranka_ros.node.hold import HoldServices
from aiofranka_ros.node.move_action import MoveAction
from aiofranka_ros.node.owners import OwnerTopic
from aiofranka_ros.node.parameters import Parameters
from aiofranka_ros.node.planned_path import PlannedPath
from aiofranka_ros.node.recording import FlightRecorder, NotedLogger
from aiofranka_ros.node.recovery_action import RecoveryAction
from aiofranka_ros.node.robot_services import RobotServices
from aiofranka_ros.node.robot_state import RobotStateTopic
from aiofranka_ros.node.state import StateTopics
from aiofranka_ros.node.targets import TargetTopics
from aiofranka_ros.node.trajectory_action import TrajectoryAction
from aiofranka_ros.processes import NEVER, StopRequest
from aiofranka_ros.recording.notes import Notes
from aiofranka_ros.ros.actions import Actions
from aiofranka_ros.ros.descriptors import ExplainedParameters
from aiofranka_ros.ros.identity import Identity

SUCCESS = TransitionCallbackReturn.SUCCESS
FAILURE = TransitionCallbackReturn.FAILURE
ERROR = TransitionCallbackReturn.ERROR


class FrankaNode(ExplainedParameters, LifecycleNode):
    """The node ``aiofranka``.

    :param stop: ends transitions that take long; by default nothing does.
    :raises rclpy.exceptions.ParameterException: a parameter from a file or the command line cannot be used.
    """

    def __init__(self, stop: StopRequest = NEVER) -> None:
        self._patient = ReentrantCallbackGroup()
        self._notes, self._noted_logger = Notes(), None
        super().__init__("aiofranka")
        self._noted_logger = NotedLogger(self.get_logger().name, self._notes)
        self._guard_services()
        self._stop = stop
        self._cpus = os.sched_getaffinity(0)
        #: Whether the node is inactive or active, even if the arm was lost since.
        self.configured = False
        self._ticked: Future = Future()
        self._settings = Parameters(self, self._reached)
        self._driver = Driver(self._settings, on_compiling=lambda: self._diagnostics.publish())
        names = self._settings.names
        self._state = StateTopics(self, names)
        self._cycles = CycleTopic(self)
        # For the gripper's node: only this node knows the address of a simulated arm. Late subscribers get it too.
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self._robot_address = self.create_publisher(String, "~/robot_address", latched)
        self._planned_path = PlannedPath(self, names.base)
        self._mover = Mover(self, self._on_motion)
        self._hold = HoldServices(self, self._driver, self._mover)
        self._actions = Actions(self)
        frames = Frames(self, names)
        self._targets = TargetTopics(self, self, self._mover, frames, names, self._actions.refusals)
        self._chunks = ChunkTopics(self, self._targets, frames, names)
        self._actions.require_free = self._targets.owners.check_goal
        self._owner = OwnerTopic(self, self._hold, self._mover, self._targets.owners)
        MoveAction(self, self._actions, self._mover, names)
        TrajectoryAction(self, self._actions, self._mover, names, self._targets)
        RecoveryAction(self, self._actions)
        self._robot_services = RobotServices(self)
        self._identity = Identity(
            self,
            self._actions.names,
            active=lambda: self._driver.active,
            hardware=lambda: f"robot {self._settings['robot_ip']}",
            discovery_time=self._settings["discovery_time"],
            on_change=self._on_identity,
        )
        self._diagnostics = DiagnosticsTopic(
            self, self._driver, self._settings, self._targets, self._chunks, self._owner, self._actions, self._identity
        )
        self._recording = FlightRecorder(self, self._notes, self._driver, self._settings, self._targets)
        self._actions.refusals.on_refusal = self._recording.on_refusal
        self._owner.on_change, self._diagnostics.on_status = self._recording.on_owner, self._recording.on_status
        # Not the node's clock: simulated time may stop, but the control process waits for heartbeats in real time.
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._robot_state = RobotStateTopic(self, self._driver, self._settings["robot_state_rate"], steady, names)
        urgent = ReentrantCallbackGroup()  # The control process waits for heartbeats.
        self.create_timer(1.0 / self._settings["state_rate"], self._tick, clock=steady, callback_group=urgent)
        self.create_timer(1.0 / self._settings["diagnostics_rate"], self._diagnostics.publish, clock=steady)
        if self._settings["autostart"]:
            self._autostart_timer = self.create_timer(0.0, self._autostart, clock=steady)

    def get_logger(self) -> RcutilsLogger:
        """The node's logger, whose lines are part of recordings."""
        return self._noted_logger or super().get_logger()

    @property
    def default_callback_group(self) -> CallbackGroup:
        """The group of callbacks that can wait; see :class:`~aiofranka_ros.ros.executor.UrgentFirstExecutor`."""
        return self._patient

    # What topics, services and actions need from the node: see :class:`~aiofranka_ros.arm.moves.ArmOwner`.

    @property
    def client(self) -> ControlClient | None:
        """The control process; ``None`` if the node is not configured or has lost the arm."""
        return self._driver.client

    @property
    def active_client(self) -> ControlClient | None:
        """The control process while the arm is active, else ``None``."""
        return self._driver.active_client

    @property
    def why_inactive(self) -> str:
        """Why the arm is not active, as the end of a sentence; empty if nothing went wrong."""
        reason = self._robot_services.restarting if self.trouble is None else self.trouble.message
        return f": {reason}" if reason else ""

    @property
    def trouble(self) -> Trouble | None:
        """The last thing that went wrong since the arm was activated."""
        return self._diagnostics.trouble

    @property
    def why_held(self) -> str:
        """Why no client may control the arm; empty if a client may."""
        return self._hold.reason

    @property
    def moving(self) -> str:
        """The move or trajectory that controls the arm; empty if there is none."""
        return self._mover.owner

    @property
    def busy(self) -> bool:
        """Whether an accepted goal has no result yet."""
        return self._actions.busy

    def parameter(self, name: str) -> Any:
        """Value of a parameter."""
        return self._settings[name]

    def set_robot(self, setting: RobotSetting, values: Sequence[Any], parameters: Mapping[str, Any]) -> None:
        """Set something in the robot while it is not active, and the parameters that describe the same.

        :raises FrankaError, TimeoutError: it was not set.
        """
        try:
            self._driver.set_robot(setting, *values)
        except TimeoutError as error:
            self._give_up(error)
            raise
        self._settings.adopt(**parameters)

    def next_tick(self) -> Awaitable[None]:
        """Done at the next tick."""
        return self._ticked

    def aside(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """See :meth:`.UrgentFirstExecutor.aside`."""
        executor: Any = self.executor
        return executor.aside(function, *arguments)

    # Lifecycle.

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Start the other processes and connect; after a failure nothing of this remains."""
        outcome = self._attempt(self._configure, FAILURE, again="configure")
        self.configured = outcome == SUCCESS
        if not self.configured:
            self.release()  # Something may have failed after the driver had connected.
        return outcome

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Take torque control and hold; connect first if the arm was lost."""
        outcome = self._attempt(self._activate, FAILURE)
        if outcome != SUCCESS and self._driver.active:
            self.release()  # Something failed after the driver had taken control.
        return outcome

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop smoothly and release; if that fails, end the control process."""
        return self._attempt(self._deactivate, ERROR)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop smoothly, release, and end the other processes; the node can be configured again."""
        self.configured = False
        self.release()
        return SUCCESS

    on_shutdown = on_error = on_cleanup

    def release(self) -> None:
        """End the control process, which first stops the arm, and the simulated arm; idempotent."""
        self._driver.release()
        self._publish_address()
        _run_on(self._cpus)

    def _guard_services(self) -> None:
        """Answer requests that make rclpy's own services raise, and apply the parameters that they set.

        rclpy does not catch the exception for a parameter of type 255, nor, up to Jazzy, for an illegal transition; the
        executor would end the node with an active arm. The answer refuses the request, with the reason if it has room.

        Changed parameters are applied here, and not in a callback of rclpy after the change, because Humble has none.
        """

        def guarded(answer: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
            def callback(request: Any, response: Any) -> Any:
                try:
                    response = answer(request, response)
                except (ValueError, TypeError, RuntimeError) as error:
                    self.get_logger().warning(f"refused a {type(request).__name__}: {error}")
                    response = type(response)()
                    if isinstance(response, SetParametersAtomically.Response):
                        response.result.reason = str(error)
                    elif isinstance(response, SetParameters.Response):
                        response.results = [SetParametersResult(reason=str(error)) for _ in request.parameters]
                self._apply_changes()
                return response

            return callback

        for service in self.services:
            service.callback = guarded(service.callback)

    def _attempt(
        self, transition: Callable[[], None], outcome: TransitionCallbackReturn, *, again: str = "activate"
    ) -> TransitionCallbackReturn:
        """Run a transition; if it fails, report why, because rclpy would not, and return ``outcome``.

        :param again: the transition to request once the cause is removed.
        """
        try:
            with self._identity.transition():
                transition()
        except Interrupted as error:  # Nothing is wrong.
            self.get_logger().info(str(error))
            return outcome
        except (FrankaError, TimeoutError) as error:
            # After a timeout, the state of the control process is unknown: it has to end, and the node unconfigures.
            lost = isinstance(error, TimeoutError)
            self._diagnostics.report(error, again="configure" if lost else again)
            return ERROR if lost else outcome
        except Exception as error:
            self._diagnostics.report(error, again="configure")
            self.get_logger().error(traceback.format_exc())
            return ERROR
        return SUCCESS

    def _configure(self) -> None:
        self._settings.changes()
        self._driver.configure(self._stop)
        self._on_connected()

    def _activate(self) -> None:
        self._identity.require_alone(self._stop.sleep)
        changed = self._settings.changes()
        if self._driver.client is not None:
            self._settings.apply(self._driver.client, changed)
        self._driver.activate(self._stop)
        self._on_connected()

    def _on_connected(self) -> None:
        self._publish_address()
        self._hold.apply()
        if self._driver.cpu is not None:
            _run_on(self._cpus - {self._driver.cpu})
        self._diagnostics.trouble = None

    def _deactivate(self) -> None:
        try:
            self._driver.deactivate()
        except ControlProcessDied:
            pass  # Then nothing drives the arm; the tick reports it.
        except ControlStopped as error:
            self._diagnostics.report(error)  # Not the requested stop, but the arm is released.

    def _on_identity(self) -> None:
        """Another node with the same names has appeared or left, or was activated."""
        identity = self._identity
        self._actions.conflict = identity.conflict
        # Of two active arms, which both follow targets, too, the younger one's node becomes inactive.
        if identity.must_yield and self._driver.active:
            self._fall_back(NameTaken(identity.conflict), disconnected=False)
        self._hold.hold_while(identity.conflict if identity.contested else "")
        self._diagnostics.publish()

    def _reached(self) -> Stage:
        """The state of the node, as far as it decides which parameters may change."""
        if self._driver.active:
            return Stage.ACTIVE
        return Stage.STARTED if self._driver.client is None else Stage.CONFIGURED

    def _autostart(self) -> None:
        self._autostart_timer.cancel()
        if self._driver.client is not None:  # A client has already configured the node.
            return
        if self.trigger_configure() != SUCCESS or self.trigger_activate() != SUCCESS:
            if not self._stop.requested:
                self.get_logger().error(
                    f"autostart failed; to try again: {self.trouble.remedy if self.trouble else ''}"
                )

    # The tick.

    def _tick(self) -> None:
        """Send a heartbeat, find out what happened, publish, and wake the coroutines that wait for the tick."""
        client = self._driver.client
        if client is not None:
            try:
                client.beat()
                ended = client.poll()
            except ControlProcessDied as error:
                self._fall_back(error, disconnected=True)
            else:
                if ended is not None and ended.error is not None:
                    self._fall_back(ended.error, disconnected=ended.reason == "connection")
                self._follow_state()
        self._cycles.follow(self._driver.client)
        self._targets.admission.follow()
        self._owner.follow()
        self._robot_state.follow()
        self._planned_path.publish()
        self._recording.tick()
        ticked, self._ticked = self._ticked, Future()
        ticked.set_result(None)

    def _follow_state(self) -> None:
        """Publish the measured state and act on it."""
        client = self._driver.client
        if client is None:
            self._chunks.follow(None)
            return
        state = client.state()
        self._chunks.follow(state if self._driver.active else None)
        self._state.publish(state, self._driver.active)
        self._targets.check_blocked(state)
        if self._driver.active:
            self._targets.check_limited(state)
            self._targets.check_approach(state)
            self._hold.follow(state)
            self._targets.try_again()
            self._targets.send_next()

    def _fall_back(self, error: FrankaError, *, disconnected: bool) -> None:
        """The arm was stopped or lost: become inactive. If it was lost, the next activation connects again."""
        cause = self._driver.cause(error)
        self._recording.stopped(cause)
        self._diagnostics.report(cause)
        if self._driver.active:
            self.trigger_deactivate()
        if disconnected:
            self.release()

    def _apply_changes(self) -> None:
        """Apply changed parameters; without a control process, they take effect with the next configuration."""
        client = self._driver.client
        if client is None or not self._settings.dirty:
            return
        try:
            changed = self._settings.changes()
            self._notes.changed(changed)
            self._settings.apply(client, changed)
        except FrankaError as error:
            self._diagnostics.report(error)
        except TimeoutError as error:
            self._give_up(error)

    def _give_up(self, error: TimeoutError) -> None:
        """Release a control process that did not answer: its state is unknown, and it may still answer later."""
        self._fall_back(ControlProcessDied(str(error)), disconnected=True)

    def _on_motion(self, motion: Motion, flange_to_tcp: Array) -> None:
        """A motion has begun, with this pose of the control frame in the flange (4, 4)."""
        self._planned_path.begin(motion, flange_to_tcp)
        self._recording.on_motion(motion, self._mover.owner)

    def _publish_address(self) -> None:
        self._robot_address.publish(String(data=self._driver.address))

    def close(self) -> None:
        """Release the arm, then everything of ROS."""
        self.release()
        self._recording.close()
        self._actions.destroy()
        self.destroy_node()


def _run_on(cpus: set[int]) -> None:
    """Restrict all threads of this process, including those of DDS, to ``cpus``; does nothing if there are none.

    The control process has a higher priority than all of them: a thread on its CPU would wait for it in every cycle.
    """
    for thread in os.listdir("/proc/self/task") if cpus else ():
        with contextlib.suppress(OSError):  # It has just ended.
            os.sched_setaffinity(int(thread), cpus)
