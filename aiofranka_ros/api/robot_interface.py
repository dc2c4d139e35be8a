"""An arm that this process owns, without ROS: the link behind ``FrankaController(RobotInterface(ip))``.

Used by the controller, in the policy's process and event loop. There are two more threads: one for everything that
blocks (starting, connecting, activating), and one that sends the heartbeat while the arm is active, because the event
loop may be blocked for a while.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from aiofranka_ros.api.attributes import ASSIGNABLE, report_unused
from aiofranka_ros.api.heartbeat import Heartbeat
from aiofranka_ros.api.link import ConnectionReport, Link, uninterrupted, until_stopped
from aiofranka_ros.api.own_recording import OwnRecording
from aiofranka_ros.api.recording import Recording
from aiofranka_ros.api.robot_gripper import RobotGripper
from aiofranka_ros.arm.chunk_points import Chunk
from aiofranka_ros.arm.chunks import ChunkPlayer, Ticket
from aiofranka_ros.arm.driver import Driver
from aiofranka_ros.arm.moves import Mover
from aiofranka_ros.arm.planning import check_goal
from aiofranka_ros.arm.settings import SETTING_NAMES, ArmSettings
from aiofranka_ros.arm.tasks import Goal, Tolerance
from aiofranka_ros.control.client import ControlClient
from aiofranka_ros.control.cycles import CycleReader, loop_stats
from aiofranka_ros.control.records import Approach, Hold
from aiofranka_ros.control.shared_memory import SharedMemory
from aiofranka_ros.control.snapshot import Snapshot, at_cycle, distance_text, snapshot_of
from aiofranka_ros.control.stamps import Stamps, offset_to
from aiofranka_ros.errors import (
    ConfigurationError,
    ControlProcessDied,
    ControlStopped,
    FrankaError,
    InvalidTarget,
    NotStarted,
)
from aiofranka_ros.kernels import Array, Record
from aiofranka_ros.processes import StopRequest

#: How long this process may be silent before the arm holds [s], unless the settings say otherwise. Longer than for the
#: node, which runs nothing else: garbage collection in a large program can block every thread for this long.
_HEARTBEAT_TIMEOUT = 1.0
#: How often the records of the cycles are read while they are evaluated [s], and at least.
_READ_PERIOD, _SHORTEST_READ = 1.0, 0.02
#: A record of a cycle is of a time if it is this close [ns]: some cycles may be lost.
_CYCLES_APART = 5_000_000


def _set_pose(client: ControlClient, pose: Array, stamp: int) -> None:
    client.set_pose(pose[:3], pose[3:], stamp)


#: How targets are passed on to the control process, by their names.
_SETTERS: dict[str, Callable[[ControlClient, Array, int], object]] = {
    "ee_desired": _set_pose,
    "ee_velocity": ControlClient.set_twist,
    "q_desired": ControlClient.set_joints,
    "dq_desired": ControlClient.set_joint_velocities,
    "torque": ControlClient.set_torque,
}


class RobotInterface(Link):
    """A Franka arm, real or simulated, driven from this process.

    Nothing starts or connects before :meth:`FrankaController.start() <.FrankaController.start>`.

    :param ip: address of the robot's FCI; ``None`` or ``"sim"``: start a simulated arm.
    :param gripper: settings of the gripper, e.g. ``{"default_speed": 0.05}``: parameters of its node.
    :param settings: any parameter of the node by name, e.g. ``mode="impedance"``, ``realtime_priority=0``.
    :raises ConfigurationError: a setting does not exist, or its value cannot be used.
    """

    def __init__(
        self, ip: str | None = None, *, gripper: Mapping[str, Any] = MappingProxyType({}), **settings: Any
    ) -> None:
        if settings.pop("read_tool", None) is not None:
            report_unused("read_tool", "the end effector that is configured in Desk is used; nothing else is read")
        for name in settings:
            if name in ASSIGNABLE and name not in SETTING_NAMES:
                raise ConfigurationError(
                    f"{name} is not a setting, but an attribute of FrankaController: assign controller.{name}"
                )
        values = ArmSettings(**{"heartbeat_timeout": _HEARTBEAT_TIMEOUT, "robot_ip": ip or "sim", **settings})
        super().__init__(values["robot_ip"], values)
        self._driver = Driver(self.settings)
        self._mover = Mover(self)
        self._gripper = RobotGripper(gripper)
        self._worker: ThreadPoolExecutor | None = None
        self._heartbeat = Heartbeat()
        self._timer: asyncio.TimerHandle | None = None
        self._ticked = asyncio.Event()
        self._stamps = Stamps()
        self._owner = os.getpid()
        #: Whether the last target was refused because it is far away, as far as is known.
        self._far = False
        self._observed = 0  # Stamp of the newest state that was reported [ns, monotonic].
        #: Plays chunks, while the arm is active.
        self._player: ChunkPlayer | None = None
        self._recording: OwnRecording | None = None

    @property
    def ip(self) -> str | None:
        """Address of the robot; ``None``: a simulated arm is started."""
        return None if self.settings["robot_ip"] == "sim" else str(self.settings["robot_ip"])

    @property
    def real(self) -> bool:
        """Whether it has an address; at which there may be a simulated arm, too."""
        return self.ip is not None

    @property
    def gripper(self) -> RobotGripper:
        """See :attr:`.Link.gripper`; of the same robot."""
        return self._gripper

    async def start(self, on_state: Callable[[], None], on_end: Callable[[Exception], None]) -> None:
        """See :meth:`.Link.start`; takes at most several seconds."""
        self._on_state, self._on_end = on_state, on_end
        loop = asyncio.get_running_loop()
        if self._worker is None:
            self._worker = ThreadPoolExecutor(1, "aiofranka_ros-robot")
        stop = StopRequest()
        try:
            await uninterrupted(loop.run_in_executor(self._worker, self._start, stop), on_cancelled=stop.request)
        except BaseException as error:
            # A connection from an earlier start stays: the user may try again while a reflex cannot be cleared yet.
            if isinstance(error, asyncio.CancelledError) or self._driver.client is None:
                await uninterrupted(self.stop())
            raise
        self._ticked = asyncio.Event()
        self._schedule_tick(loop, loop.time())

    async def stop(self) -> None:
        """See :meth:`.Link.stop`; finishes even if the program cancels all of its tasks. Does nothing in a fork."""
        if os.getpid() != self._owner:  # The arm is the parent's, and so are the threads that would stop it.
            return
        self._stop_ticking()
        self._close_player("the arm was released")
        worker, self._worker = self._worker, None
        if worker is not None:
            try:
                await uninterrupted(asyncio.get_running_loop().run_in_executor(worker, self._stop))
            finally:
                worker.shutdown(wait=False)
                self._ticked.set()  # A move that still waits must see that the arm is released.

    def clock(self) -> int:
        """See :meth:`.Link.clock`: the computer's."""
        return time.time_ns()

    def snapshot(self) -> Snapshot:
        """See :meth:`.Link.snapshot`; read from the control process."""
        self._if_active(self._read)
        return super().snapshot()

    def switch(self, mode: str) -> None:
        """See :meth:`.Link.switch`."""
        self.settings.update({"mode": mode})
        self._if_active(lambda client: client.switch(self.settings.mode))

    def apply(self, changes: Mapping[str, Any]) -> None:
        """See :meth:`.Link.apply`."""
        changed = self.settings.update(changes)
        if self._recording is not None:
            self._recording.notes.changed(changed)
        self._if_active(lambda client: self.settings.apply(client, changed))

    def set_target(self, name: str, values: Array) -> None:
        """See :meth:`.Link.set_target`."""
        stamp = time.monotonic_ns()
        self._if_active(lambda client: _SETTERS[name](client, values, stamp))
        if (recording := self._recording) is not None:
            recording.target(name, values, stamp)

    async def follow(self, kind: str, values: Array, times: Array, start: int | None, gripper: Array | None) -> Ticket:
        """See :meth:`.Link.follow`.

        :raises GripperFailed: widths are given, but there is no gripper.
        """
        if gripper is not None:
            await self._gripper.prepare(gripper)
        if self._recording is not None:
            self._recording.notes.event("request", f"a chunk of {len(values)} points ({kind})")
        now, begin = time.monotonic(), None if start is None else _monotonic(start)
        ticket = self._require_player().follow(Chunk(kind, times, values, begin), now)
        if gripper is not None:
            self._gripper.follow(now if begin is None else begin, times, gripper)
        return ticket

    def snapshot_at(self, stamp: int) -> Snapshot:
        """See :meth:`.Link.snapshot_at`; from the record of every cycle, even if the event loop was blocked then."""
        snapshot, client = super().snapshot_at(stamp), self.active_client
        measured = stamp - offset_to()
        cycle = None if client is None else client.shared.cycles.at(measured)
        if cycle is None or abs(measured - cycle["stamp"]) > _CYCLES_APART:
            return snapshot
        return at_cycle(snapshot, cycle, measured)

    def committed(self, n: int, dt: float, start: int | None) -> tuple[Array, int]:
        """See :meth:`.Link.committed`."""
        begin = None if start is None else _monotonic(start)
        return self._require_player().committed(n, dt, time.monotonic(), begin)

    def inference_delay(self, dt: float, quantile: float) -> int:
        """See :meth:`.Link.inference_delay`."""
        return self._require_player().inference_delay(dt, quantile)

    def stop_following(self) -> None:
        """See :meth:`.Link.stop_following`."""
        if self._player is not None:
            self._player.stop()
        self._gripper.stop_following()

    async def settled(self) -> None:
        """See :meth:`.Link.settled`; here, changes are in force with the next cycle."""

    def check_targets(self) -> None:
        """See :meth:`.Link.check_targets`; no other client can send targets, but the control process may refuse them.

        :raises InvalidTarget: the arm was pushed and holds, or the targets begin far away and must not.
        """
        client = self._driver.active_client
        state = None if client is None else client.state()
        if state is None:
            return
        if int(state["hold"]) & Hold.PUSHED:
            raise InvalidTarget(
                "the arm was pushed harder than max_external_force or max_external_torque and holds: await "
                "controller.stop(), then start()",
                reason="held",
            )
        # Twice, because the newest target may not have reached the control process yet.
        before, self._far = self._far, state["approach"] == Approach.REFUSED
        if before and self._far:
            raise InvalidTarget(
                f"it is {distance_text(state['approach_left'])} from the arm: begin where the arm is, see "
                "approach_far_streams",
                reason="begins far away",
            )

    async def handed_back(self) -> None:
        """See :meth:`.Link.handed_back`; here, it is never handed over."""

    async def move(self, goal: Array) -> None:
        """See :meth:`.Link.move`."""
        joints = self.settings.names.joints
        check_goal(goal, joints)
        if self._recording is not None:
            self._recording.notes.event("request", "controller.move()", goal=[round(q, 4) for q in goal.tolist()])
        task = Goal(
            q=goal,
            velocity=self.settings["move_velocity"],
            goal_tolerance=Tolerance.of_position(self.settings["move_tolerance"], joints),
            settle_time=self.settings["move_settle_time"],
        )
        await until_stopped(lambda cancelled: self._mover.move(task, cancelled=cancelled.is_set))

    def record(self, recording: Recording) -> None:
        """See :meth:`.Link.record`; from the memory shared with the control process."""
        reader = CycleReader(self._memory, recording.take)
        recording.follow(reader.read, reader.close)

    def _memory(self) -> SharedMemory | None:
        client = self.active_client
        return None if client is None else client.shared

    def loop_stats(self) -> dict[str, float]:
        """See :meth:`.Link.loop_stats`."""
        return loop_stats(self._require_active().state())

    async def save_recording(self) -> Path:
        """See :meth:`.Link.save_recording`."""
        if self._recording is None:
            raise NotStarted("nothing was recorded yet: await controller.start() first")
        return await self._recording.save()

    async def measure_connection(self, duration: float) -> ConnectionReport:
        """See :meth:`.Link.measure_connection`; from the records of all cycles."""
        self._require_active()
        begin, recording = time.monotonic(), Recording(("response", "lost", "success_rate"), None)
        self.record(recording)
        try:
            # At least one row; and looked at often, because the memory keeps only the last seconds.
            while recording.rows == 0 or time.monotonic() < begin + duration:
                rest = begin + duration - time.monotonic()
                await asyncio.sleep(min(max(rest, _SHORTEST_READ), _READ_PERIOD))
        finally:
            rows = recording.stop()
        response, lost = rows["response"], rows["lost"]
        p50, p99, longest = 1e6 * np.percentile(response, (50, 99, 100))
        return ConnectionReport(
            duration=time.monotonic() - begin,
            cycles=len(response) + recording.dropped,
            cycles_lost=int(lost.sum()),
            longest_gap=int(lost.max()),
            success_rate_min=float(rows["success_rate"].min()),
            response_us={"p50": float(p50), "p99": float(p99), "max": float(longest)},
        )

    # What moves need of the arm's owner.

    #: The controller reports why the arm is not active, and only this process could hold it.
    why_inactive = why_held = ""

    @property
    def active_client(self) -> ControlClient | None:
        """The control process while the arm is active, otherwise ``None``."""
        return self._driver.active_client

    def parameter(self, name: str) -> Any:
        """Value of a setting."""
        return self.settings[name]

    async def next_tick(self) -> None:
        """Wait for the next tick; not if the arm was stopped or lost."""
        await self._ticked.wait()

    def aside(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """What ``function`` returns; heartbeats have a separate thread."""
        return function(*arguments)

    # In the event loop.

    def _schedule_tick(self, loop: asyncio.AbstractEventLoop, last: float) -> None:
        # After the loop was blocked, ticks continue from now: the missed ones are of no use.
        due = max(last + 1.0 / self.settings["state_rate"], loop.time())
        self._timer = loop.call_at(due, self._tick, loop, due)

    def _tick(self, loop: asyncio.AbstractEventLoop, due: float) -> None:
        """Notice whether the control loop ended, and wake everything that waits for a new state."""
        self._schedule_tick(loop, due)
        try:
            ended = self._require_active().poll()
        except ControlProcessDied as error:
            self._end(error)
        else:
            if ended is not None and ended.error is not None:
                self._end(self._driver.cause(ended.error))
        self._if_active(self._observe)
        self._ticked.set()
        if self._timer is not None:
            self._ticked.clear()

    def _end(self, error: FrankaError) -> None:
        """The arm was stopped or lost; it is released."""
        if self._recording is not None:
            self._recording.stopped(error)
        self._driver.active = False
        self._close_player(str(error))
        self._stop_ticking()
        self._heartbeat.stop()
        self._ticked.set()  # First: whatever else happens, a move must see that the arm is released.
        self._on_end(error)

    def _close_player(self, reason: str) -> None:
        """The arm is no longer active."""
        player, self._player = self._player, None
        self._gripper.stop_following()
        if player is not None:
            player.close(reason)

    def _stop_ticking(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _observe(self, client: ControlClient) -> None:
        state = self._read(client)
        self._keep(super().snapshot())
        if self._player is not None:
            self._player.observe(state)
        if self._recording is not None:
            self._recording.tick(state, client)
        if int(state["stamp"]) != self._observed:  # On a busy computer, the control process may not have run since.
            self._observed = int(state["stamp"])
            self._on_state()

    def _read(self, client: ControlClient) -> Record:
        state = client.state()
        self._newest = snapshot_of(state, self._stamps.of(int(state["stamp"])))
        return state

    def _if_active(self, work: Callable[[ControlClient], object]) -> None:
        """Call ``work`` if the arm is active; from any thread. Otherwise its activation sends all settings."""
        client = self._driver.active_client
        if client is not None:
            with contextlib.suppress(ControlProcessDied):  # The next tick reports it.
                work(client)

    def _require_player(self) -> ChunkPlayer:
        self._require_active()
        assert self._player is not None
        return self._player

    def _require_active(self) -> ControlClient:
        client = self._driver.active_client
        if client is None:
            raise NotStarted("the arm is not active")
        return client

    # In the thread that may block.

    def _start(self, stop: StopRequest) -> None:
        connected = self._driver.client is not None
        try:
            if self._recording is None:
                self._recording = OwnRecording(self._driver, self.settings)
            self._driver.activate(stop)
            client = self._require_active()
            self._read(client)
            self._gripper.open(self._driver.address)
            self._player = ChunkPlayer(client, self.parameter)
            self._heartbeat.start(client)
        except BaseException:
            if self._driver.active or not connected:
                self._stop()
            raise

    def _stop(self) -> None:
        try:
            if self._driver.active:
                self._driver.deactivate()
        except (ControlStopped, ControlProcessDied, TimeoutError):
            pass  # Already released, or the release below does it.
        finally:
            self._heartbeat.stop()
            self._gripper.close()
            self._driver.release()
            recording, self._recording = self._recording, None
            if recording is not None:
                recording.close()


def _monotonic(stamp: int) -> float:
    """A time [ns, as in a snapshot] by the monotonic clock [s]."""
    return 1e-9 * (stamp - offset_to())
