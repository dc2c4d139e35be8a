"""The lifecycle node: it owns the control process, listens to the graph, and tells people what happens.

``ros2 run aiofranka_ros node``, or ``python -m aiofranka_ros.node``. One process and one thread: everything
runs on one executor (:mod:`aiofranka_ros.ros.executor`), so nothing here needs a lock. Nothing here is fast either, and
need not be: the arm is driven by the control process (:mod:`aiofranka_ros.control.process`), which goes on, safely,
whatever happens here.

What configure, activate, deactivate and cleanup mean to the arm stands in :mod:`aiofranka_ros.arm.driver`.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import logging
import os
import shutil
import sys
import time
import traceback
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PoseStamped, WrenchStamped
from lifecycle_msgs.srv import ChangeState
from rclpy.callback_groups import CallbackGroup, ReentrantCallbackGroup
from rclpy.clock import Clock, ClockType
from rclpy.exceptions import ParameterException
from rclpy.impl.rcutils_logger import RcutilsLogger
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, QoSProfile, qos_profile_sensor_data
from rclpy.signals import SignalHandlerOptions
from rclpy.task import Future
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray, String

from aiofranka_ros.arm.driver import Driver
from aiofranka_ros.arm.moves import Mover
from aiofranka_ros.control.client import ControlClient, Ended
from aiofranka_ros.control.records import STATE, RobotSetting
from aiofranka_ros.errors import ControlProcessDied, ControlStopped, FrankaError
from aiofranka_ros.kernels import Record
from aiofranka_ros.model.names import ArmNames
from aiofranka_ros.node.diagnostics import Diagnosis, Trouble
from aiofranka_ros.node.frames import Frames
from aiofranka_ros.node.hold import HOLDER, HoldServices
from aiofranka_ros.node.move_action import MoveAction
from aiofranka_ros.node.parameters import Parameters
from aiofranka_ros.node.planned_path import PlannedPath
from aiofranka_ros.node.recovery_action import RecoveryAction
from aiofranka_ros.node.robot_services import RobotServices
from aiofranka_ros.node.robot_state import RobotStateTopic
from aiofranka_ros.node.targets import TargetTopics
from aiofranka_ros.node.trajectory_action import TrajectoryAction
from aiofranka_ros.processes import StopRequest
from aiofranka_ros.ros import messages
from aiofranka_ros.ros.actions import Actions
from aiofranka_ros.ros.cdr import SerializedMessage
from aiofranka_ros.ros.executor import UrgentFirstExecutor
from aiofranka_ros.setting import Stage

SUCCESS, FAILURE, ERROR = (
    TransitionCallbackReturn.SUCCESS,
    TransitionCallbackReturn.FAILURE,
    TransitionCallbackReturn.ERROR,
)
#: Niceness of the node, where the system permits it.
_NICENESS = -10
#: How long results of aborted goals may take to leave at the end [s].
_LAST_WORDS = 0.8
#: How long another thread of this interpreter may keep its lock [s]. To take a goal, the node gives the lock away many
#: times. With four busy threads, in whatever shares the process, and Python's 5 ms, it would be silent for seconds; at
#: 0.5 ms it was, on a slow computer, for up to 0.9 s, at this interval for less than 0.1 s. Alone, it does not matter.
_SWITCH_INTERVAL = 20e-6
#: Less than this on a disk is as good as nothing [bytes].
_LITTLE_SPACE = 1 << 20
#: Through which DDS sends to other processes of the same computer.
_SHARED_MEMORY = "/dev/shm"


class FrankaNode(LifecycleNode):
    """The node ``aiofranka``.

    :param interruptible: a context inside which a signal raises ``KeyboardInterrupt``, for what takes long.
    :raises rclpy.exceptions.ParameterException: a parameter from a file or the command line cannot be used.
    """

    def __init__(
        self, interruptible: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext
    ) -> None:
        self._patient = ReentrantCallbackGroup()
        super().__init__("aiofranka")
        self._survive_odd_requests()
        self._interruptible = interruptible
        self._cpus = os.sched_getaffinity(0)
        #: Whether the node is inactive or active, although the arm may have been lost since.
        self.configured = False
        self._measured: Record | None = None
        self._trouble: Trouble | None = None
        self._reported: BaseException | None = None  # What the trouble came from.
        self._ticked: Future = Future()
        self._settings = Parameters(self, self._reached)
        self._driver = Driver(self._settings)
        self._names = self._settings.names
        self._frames = Frames(self, self._names)
        # Measured state goes out while the node is inactive too, because an arm that is guided by hand is of
        # interest; a lifecycle publisher would be silent then.
        self._measurements: list[tuple[Publisher, Callable[[Record], bytes]]] = [
            (self.create_publisher(kind, name, qos), message_of)
            for kind, name, qos, message_of in (
                (JointState, "joint_states", QoSProfile(depth=10), self._serialized(messages.joint_state)),
                (PoseStamped, "~/ee_pose", qos_profile_sensor_data, self._serialized(messages.measured_pose)),
                (
                    WrenchStamped, "~/external_wrench", qos_profile_sensor_data,
                    self._serialized(messages.external_wrench),
                ),
                (Float64MultiArray, "~/state", qos_profile_sensor_data, self._serialized_snapshot()),
            )
        ]  # fmt: skip
        # For the gripper's node: nobody else knows where a simulated arm is. Whoever comes later hears of it too.
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self._robot_address = self.create_publisher(String, "~/robot_address", latched)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", QoSProfile(depth=10))
        self._targets = TargetTopics(self, self, self._frames, self._names)
        self._planned_path = PlannedPath(self, self._names.base)
        self._mover = Mover(self, self._planned_path.begin)
        self._hold = HoldServices(self, self._mover, lambda: self._driver.client)
        self._actions = Actions(self)
        MoveAction(self, self._actions, self, self._mover, self._names)
        TrajectoryAction(self, self._actions, self, self._mover, self._names)
        RecoveryAction(self, self._actions, self, lambda: self.configured)
        self._robot_services = RobotServices(self, self)
        self._diagnosis = Diagnosis(self.get_fully_qualified_name())
        self._survive_illegal_transitions()
        # Not the node's clock: simulated time may stand still, the control process's patience doesn't.
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._robot_state = RobotStateTopic(self, self, self._settings["robot_state_rate"], steady, self._names)
        urgent = ReentrantCallbackGroup()  # The control process waits for signs of life.
        self.create_timer(1.0 / self._settings["state_rate"], self._tick, clock=steady, callback_group=urgent)
        self.create_timer(1.0 / self._settings["diagnostics_rate"], self._publish_diagnostics, clock=steady)
        if self._settings["autostart"]:
            self._autostart_timer = self.create_timer(0.0, self._autostart, clock=steady)

    @property
    def default_callback_group(self) -> CallbackGroup:
        """The group of callbacks that can wait; see :class:`~aiofranka_ros.ros.executor.UrgentFirstExecutor`."""
        return self._patient

    # What targets and moves ask for.

    @property
    def client(self) -> ControlClient | None:
        """The control process; ``None`` where the node is not configured."""
        return self._driver.client

    @property
    def active_client(self) -> ControlClient | None:
        """The control process while the arm is active, else ``None``."""
        return self._driver.active_client

    @property
    def why_inactive(self) -> str:
        """Why the arm is not active, as the end of a sentence; empty where nothing went wrong."""
        reason = self._robot_services.restarting if self._trouble is None else self._trouble.message
        return f": {reason}" if reason else ""

    @property
    def trouble(self) -> Trouble | None:
        """The last thing that went wrong since the arm was activated."""
        return self._trouble

    @property
    def why_held(self) -> str:
        """Why nobody may have the arm; empty where it may be had."""
        return self._hold.reason

    @property
    def moving(self) -> str:
        """Which move or trajectory has the arm; empty where none does."""
        return self._mover.owner

    @property
    def busy(self) -> bool:
        """Whether a goal was accepted whose result is still to come."""
        return self._actions.busy

    def parameter(self, name: str) -> Any:
        """Value of a parameter, also one that was set just now."""
        self._apply_changes()
        return self._settings[name]

    def set_robot(self, setting: RobotSetting, values: Sequence[Any], parameters: Mapping[str, Any]) -> None:
        """Set something in the robot at rest, and parameters that say the same.

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

    # Lifecycle.

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Start what has to run and connect; on failure nothing of it is left."""
        outcome = self._attempt(self._configure, FAILURE, again="configure")
        self.configured = outcome == SUCCESS
        return outcome

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Take torque control and hold; connect first where the arm was lost."""
        return self._attempt(self._activate, FAILURE)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop smoothly and release; where that fails, by ending the control process."""
        return self._attempt(self._deactivate, ERROR)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Disconnect and end the other processes."""
        return self._unconfigure()

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop smoothly, release, and end the other processes."""
        return self._unconfigure()

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Release the arm the safe way; the node can be configured again."""
        return self._unconfigure()

    def _unconfigure(self) -> TransitionCallbackReturn:
        self.configured = False
        self.release()
        return SUCCESS

    def release(self) -> None:
        """End the control process, which brings the arm to rest first, and the simulated arm; idempotent."""
        self._measured = None
        self._driver.release()
        self._publish_address()
        _run_on(self._cpus)

    def _survive_odd_requests(self) -> None:
        """Answer what ROS's own services cannot make sense of, such as a parameter of type 255, with nothing.

        rclpy lets the exception through, and the executor would end the node with an active arm.
        """

        def surviving(answer: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
            def callback(request: Any, response: Any) -> Any:
                try:
                    return answer(request, response)
                except (ValueError, TypeError, RuntimeError) as error:
                    self.get_logger().warning(f"refused a {type(request).__name__}: {error}")
                    return type(response)()

            return callback

        for service in self.services:
            service.callback = surviving(service.callback)

    def _survive_illegal_transitions(self) -> None:
        """Answer a request for an illegal transition with a refusal, as Kilted does.

        Up to Jazzy, rclpy lets the exception through, and the executor would end the node with an active arm.
        """
        service = self._service_change_state
        answer = service.callback

        def change_state(request: ChangeState.Request, response: ChangeState.Response) -> ChangeState.Response:
            try:
                return answer(request, response)
            except RuntimeError as error:  # rclpy's RCLError is one.
                self.get_logger().warning(f"refused a transition: {error}")
                response.success = False
                return response

        service.callback = change_state

    def _attempt(
        self, transition: Callable[[], None], outcome: TransitionCallbackReturn, *, again: str = "activate"
    ) -> TransitionCallbackReturn:
        """Run a transition; where it fails, say why, because rclpy wouldn't, and return ``outcome``.

        :param again: the transition to ask for when the cause is removed.
        """
        try:
            transition()
        except (FrankaError, TimeoutError) as error:
            # After a timeout nobody knows what the control process does: it has to go, and the node with it.
            lost = isinstance(error, TimeoutError)
            self._report(error, again="configure" if lost else again)
            return ERROR if lost else outcome
        except Exception as error:
            self._report(error, again="configure")
            self.get_logger().error(traceback.format_exc())
            return ERROR
        return SUCCESS

    def _configure(self) -> None:
        self._settings.changes()
        with self._interruptible():
            self._driver.configure()
        self._on_connected()

    def _activate(self) -> None:
        changed = self._settings.changes()
        if self._driver.client is not None:
            self._settings.apply(self._driver.client, changed)
        with self._interruptible():
            self._driver.activate()
        self._on_connected()

    def _on_connected(self) -> None:
        self._publish_address()
        self._hold.apply()
        if self._driver.cpu is not None:
            _run_on(self._cpus - {self._driver.cpu})
        self._trouble = None

    def _deactivate(self) -> None:
        try:
            self._driver.deactivate()
        except ControlProcessDied:
            pass  # Nobody drives the arm then; the tick tells of it.
        except ControlStopped as error:
            self._report(error)  # Not as it was meant, but the arm is released.

    def _reached(self) -> Stage:
        """The node's state, as far as it decides which parameters may change."""
        if self._driver.active:
            return Stage.ACTIVE
        return Stage.STARTED if self._driver.client is None else Stage.CONFIGURED

    def _autostart(self) -> None:
        self._autostart_timer.cancel()
        if self._driver.client is not None:  # Somebody was faster.
            return
        if self.trigger_configure() != SUCCESS or self.trigger_activate() != SUCCESS:
            self.get_logger().error(f"autostart failed; to try again: {self._trouble.remedy if self._trouble else ''}")

    # The tick.

    def _tick(self) -> None:
        """Give a sign of life, learn what happened, publish, and let those go on who wait for it."""
        client = self._driver.client
        if client is not None:
            try:
                client.beat()
                self._follow(client.poll(on_stopped=self._report))
            except ControlProcessDied as error:
                self._fall_back(error, disconnected=True)
            else:
                self._publish_state()
        self._robot_state.follow()
        self._apply_changes()
        self._planned_path.publish()
        ticked, self._ticked = self._ticked, Future()
        ticked.set_result(None)

    def _follow(self, ended: Ended | None) -> None:
        """Come down to the state that the control process is in."""
        if ended is not None and ended.error is not None:
            self._fall_back(ended.error, disconnected=ended.reason == "connection")

    def _fall_back(self, error: FrankaError, *, disconnected: bool) -> None:
        """The arm was stopped or lost: become inactive. Where it was lost, the next activation connects again."""
        cause = self._driver.cause(error)
        if cause is not self._reported:
            self._report(cause)
        if self._driver.active:
            self.trigger_deactivate()
        if disconnected:
            self.release()

    def _report(self, error: BaseException, *, again: str = "activate") -> None:
        """Keep what went wrong for the diagnostics, and say it, once, with what to do about it.

        :param again: the transition that leads back.
        """
        self._reported = error
        command = f"ros2 lifecycle set {self.get_fully_qualified_name()} {again}"
        self._trouble = Trouble.of(error, command, self._settings["robot_ip"])
        self.get_logger().error(f"{self._trouble.message} ({self._trouble.remedy})")
        self._publish_diagnostics()  # Whoever hears next that the arm is not active any more wants to know why.

    def _apply_changes(self) -> None:
        """Let changed parameters take effect."""
        client = self._driver.client
        if client is None or not self._settings.dirty:
            return  # What changed meanwhile takes effect with the next configuration.
        try:
            self._settings.apply(client, self._settings.changes())
        except FrankaError as error:
            self._report(error)
        except TimeoutError as error:
            self._give_up(error)

    def _give_up(self, error: TimeoutError) -> None:
        """Let a control process go that did not answer: nobody knows what it does, and it may still answer later."""
        self._fall_back(ControlProcessDied(str(error)), disconnected=True)

    # What the node says.

    def _publish_state(self) -> None:
        client = self._driver.client
        if client is None:
            return
        state = self._measured = client.state()
        for publisher, message_of in self._measurements:
            # Making a message takes time that a target may be waiting for.
            if publisher.get_subscription_count() > 0:
                publisher.publish(message_of(state))
        self._frames.publish(state)
        if self._driver.active:
            self._targets.check_limited(state)
            self._hold.follow(state)
            self._targets.try_again()

    def _serialized(self, message_of: Callable[[Record, ArmNames], Any]) -> Callable[[Record], bytes]:
        return SerializedMessage(lambda state: message_of(state, self._names), STATE).of

    def _serialized_snapshot(self) -> Callable[[Record], bytes]:
        message = messages.SnapshotMessage()
        return lambda state: message.of(state, self._driver.active)

    def _publish_address(self) -> None:
        self._robot_address.publish(String(data=self._driver.address))

    def _publish_diagnostics(self) -> None:
        client, state = self._driver.client, self._measured
        statuses = {
            "control loop": self._diagnosis.loop(client, state, self._driver.address),
            "targets": self._diagnosis.targets(
                state,
                self._driver.active,
                owner=HOLDER if self._hold.reason else self._mover.owner or self._targets.owner or "nobody",
                accepted=self._targets.accepted,
                refused=self._targets.refused,
                limited=self._targets.limited,
                rejected=self._actions.rejected,
            ),
            "robot": self._diagnosis.robot(
                state, address=self._settings["robot_ip"], versions=self._driver.versions, trouble=self._trouble
            ),
        }
        message = DiagnosticArray()
        message.header.stamp = self.get_clock().now().to_msg()
        for name, status in statuses.items():
            # With its namespace, because viewers tell statuses apart by their names.
            status.name = f"{self.get_fully_qualified_name().lstrip('/')}: {name}"
            status.hardware_id = self._settings["robot_ip"]
            message.status.append(status)
        self._diagnostics.publish(message)

    def close(self) -> None:
        """Release the arm, then everything of ROS."""
        self.release()
        self._actions.destroy()
        self.destroy_node()


def _run_on(cpus: set[int]) -> None:
    """Let all threads of this process, those of DDS too, run on ``cpus`` alone; on any where there are none.

    The control process has a higher priority than everybody: whoever shares its CPU waits for it in every cycle.
    """
    for thread in os.listdir("/proc/self/task") if cpus else ():
        with contextlib.suppress(OSError):  # It ended meanwhile.
            os.sched_setaffinity(int(thread), cpus)


class _RosLog(logging.Handler):
    """Passes on what this package's modules say that know nothing of ROS."""

    def __init__(self, logger: RcutilsLogger) -> None:
        super().__init__()
        self._logger = logger

    def emit(self, record: logging.LogRecord) -> None:
        # A line for each level, because rclpy allows a line of source only one.
        message = record.getMessage()
        if record.levelno >= logging.ERROR:
            self._logger.error(message)
        elif record.levelno >= logging.WARNING:
            self._logger.warning(message)
        else:
            self._logger.info(message)


def _warn_of_full_disks(logger: RcutilsLogger) -> None:
    """Say what is full that ROS and DDS write to: they do without, and their own words for it name no cause."""
    logs = getattr(rclpy.logging, "get_logging_directory", lambda: "")()
    consequences = {logs: "log files will be empty", _SHARED_MEMORY: "DDS has to send over the network instead"}
    for folder, consequence in consequences.items():
        with contextlib.suppress(OSError):
            if folder and shutil.disk_usage(folder).free < _LITTLE_SPACE:
                logger.warning(f"{folder} is full, {consequence}: {os.strerror(errno.ENOSPC)}")


def _spin(node: FrankaNode, stop: StopRequest) -> None:
    """Run the node until a signal asks to stop, then bring the arm to rest and let the last results leave."""
    executor = UrgentFirstExecutor(node)
    # What was built so far stays; a collection that looks through all of it would delay targets by many cycles.
    gc.collect()
    gc.freeze()
    try:
        # The tick's timer ends every wait soon enough for a signal to be noticed.
        while not stop.requested:
            executor.spin_turn()
    except KeyboardInterrupt:
        node.get_logger().info("interrupted")
    finally:
        try:
            node.release()
            # Ending a goal, sending its result and delivering it take several rounds; how many, nobody tells.
            deadline = time.monotonic() + (_LAST_WORDS if node.busy else 0.0)
            while time.monotonic() < deadline:
                executor.spin_turn(timeout=0.01)
        finally:
            executor.shutdown()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the node until Ctrl-C or SIGTERM.

    :returns: exit status: 0 after either of them, 1 if the node could not start or failed.
    """
    stop = StopRequest()
    sys.setswitchinterval(_SWITCH_INTERVAL)
    with contextlib.suppress(PermissionError):
        # Before DDS starts its threads, which inherit it: what policies do on this computer shall not delay their
        # own targets, nor the signs of life that the control process waits for.
        os.setpriority(os.PRIO_PROCESS, 0, _NICENESS)
    rclpy.init(args=arguments, signal_handler_options=SignalHandlerOptions.NO)
    stop.install()
    log = logging.getLogger("aiofranka_ros")
    handler: logging.Handler | None = None
    try:
        node = FrankaNode(stop.interrupts)
        _warn_of_full_disks(node.get_logger())
        handler = _RosLog(node.get_logger())
        log.addHandler(handler)
        log.propagate = False
        log.setLevel(logging.INFO)
        try:
            _spin(node, stop)
        finally:
            log.removeHandler(handler)
            node.close()
    except ParameterException as error:
        rclpy.logging.get_logger("aiofranka").fatal(f"cannot start: {error}")
        return 1
    except Exception:
        rclpy.logging.get_logger("aiofranka").fatal(f"the node failed:\n{traceback.format_exc()}")
        return 1
    finally:
        rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
