"""An arm that this process owns, without ROS: what ``FrankaController(RobotInterface(ip))`` stands on.

The torques are computed in the control process, as under the node. Here, in the process of the policy, are the event
loop of the controller, in which everything below runs unless it says otherwise, and two threads: one that does what
blocks (starting, connecting, activating), and one that gives the sign of life while the arm is active, because the
event loop may be blocked for a while.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from aiofranka_ros.api.link import ConnectionReport, Data, uninterrupted
from aiofranka_ros.arm.driver import Driver
from aiofranka_ros.arm.moves import MoveCancelled, Mover
from aiofranka_ros.arm.planning import check_goal
from aiofranka_ros.arm.settings import ArmSettings
from aiofranka_ros.arm.tasks import Goal
from aiofranka_ros.control.client import ControlClient
from aiofranka_ros.control.snapshot import Snapshot
from aiofranka_ros.errors import ControlProcessDied, ControlStopped, FrankaError, NotStarted
from aiofranka_ros.kernels import Array
from aiofranka_ros.model.kinematics import pose_matrix

#: How long this process may be silent before the arm holds [s], unless the settings say otherwise. More than in the
#: node, where nothing else runs: collecting the garbage of a large program keeps every thread waiting for as long.
_HEARTBEAT_TIMEOUT = 1.0
#: How often the sign of life is given [s].
_BEAT_PERIOD = 0.02


class RobotInterface:
    """A Franka arm, real or simulated, driven from this process.

    Nothing is started or connected before :meth:`FrankaController.start() <.FrankaController.start>`.

    :param ip: address of the robot's FCI; ``None`` or ``"sim"``: a simulated arm is started.
    :param settings: any parameter of the node by name, e.g. ``mode="impedance"``, ``realtime_priority=0``.
    :raises ConfigurationError: a setting does not exist, or its value cannot be used.
    """

    def __init__(self, ip: str | None = None, **settings: Any) -> None:
        settings = {"heartbeat_timeout": _HEARTBEAT_TIMEOUT, "robot_ip": ip or "sim", **settings}
        self.settings = ArmSettings(**settings)
        #: The newest measured positions, velocities and torques.
        self.data = Data(self)
        self._driver = Driver(self.settings)
        self._mover = Mover(self)
        self._newest: Snapshot | None = None
        self._worker: ThreadPoolExecutor | None = None
        self._beats: _Beats | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._ticked: asyncio.Future[None] | None = None
        self._on_state: Callable[[], None] = lambda: None
        self._on_end: Callable[[Exception], None] = lambda error: None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self.name}>"

    @property
    def name(self) -> str:
        """Address of the robot."""
        return str(self.settings["robot_ip"])

    @property
    def state(self) -> dict[str, Any]:
        """The newest measured state, see :attr:`FrankaController.state <.FrankaController.state>`."""
        return self.snapshot().as_state()

    # What the controller asks for.

    async def start(self, on_state: Callable[[], None], on_end: Callable[[Exception], None]) -> None:
        """See :meth:`.Link.start`. Cancelled, it first comes to its end: several seconds at the most."""
        self._on_state, self._on_end = on_state, on_end
        if self._worker is None:
            self._worker = ThreadPoolExecutor(1, "aiofranka_ros-robot")
        await self._blocking(self._start)
        loop = asyncio.get_running_loop()
        self._ticked = loop.create_future()
        self._schedule_tick(loop, loop.time())

    async def stop(self) -> None:
        """See :meth:`.Link.stop`. Cancelled, it first comes to its end."""
        self._stop_ticking()
        worker, self._worker = self._worker, None
        if worker is not None:
            try:
                await uninterrupted(asyncio.get_running_loop().run_in_executor(worker, self._stop))
            finally:
                worker.shutdown(wait=False)
                self._wake(self._ticked)  # A move that still waits shall see that it is over.

    def snapshot(self) -> Snapshot:
        """See :meth:`.Link.snapshot`; fresh from the control process."""
        client = self._driver.active_client
        if client is not None:
            with contextlib.suppress(ControlProcessDied):  # The next tick tells of it.
                self._newest = _snapshot(client)
        if self._newest is None:
            raise NotStarted("nothing was measured yet: await controller.start() first")
        return self._newest

    def switch(self, mode: str) -> None:
        """See :meth:`.Link.switch`."""
        self.settings.update({"mode": mode})
        self._with_client(lambda client: client.switch(self.settings.mode))

    def apply(self, changes: Mapping[str, Any]) -> None:
        """See :meth:`.Link.apply`."""
        changed = self.settings.update(changes)
        self._with_client(lambda client: self.settings.apply(client, changed))

    def set_target(self, target: Mapping[str, Array]) -> None:
        """See :meth:`.Link.set_target`."""
        stamp = time.time_ns()
        if "target_q" in target:
            self._with_client(lambda client: client.set_joints(target["target_q"], stamp))
        elif "target_torque" in target:
            self._with_client(lambda client: client.set_torque(target["target_torque"], stamp))
        else:
            pose = target["target_position"], target["target_orientation"]
            self._with_client(lambda client: client.set_pose(*pose, stamp))

    async def settled(self) -> None:
        """See :meth:`.Link.settled`; here, changes are in force with the next cycle."""

    async def move(self, goal: Array) -> None:
        """See :meth:`.Link.move`."""
        joints = self.settings.names.joints
        check_goal(goal, joints)
        cancelled = False
        pursued = Goal(goal, self.settings["move_velocity"], self.settings["move_tolerance"], joints)
        task = asyncio.ensure_future(self._mover.move(pursued, cancelled=lambda: cancelled))
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            cancelled = True
            # Stopped by something else than the cancellation: the next call tells of it.
            with contextlib.suppress(MoveCancelled, FrankaError):
                await uninterrupted(task)
            raise

    async def measure_connection(self, duration: float) -> ConnectionReport:
        """See :meth:`.Link.measure_connection`; every cycle counts."""
        cycles = self._require_active().shared.cycles
        first = cycles.count
        await asyncio.sleep(duration)
        records, _, missed = cycles.since(first)
        response = 1e6 * records["response"]
        p50, p99 = np.percentile(response, (50, 99))
        return ConnectionReport(
            duration=duration,
            cycles=len(records) + missed,
            cycles_lost=int(records["lost"].sum()),
            longest_gap=int(records["lost"].max()),
            success_rate_min=float(records["success_rate"].min()),
            response_us={"p50": float(p50), "p99": float(p99), "max": float(response.max())},
        )

    # What moves ask for.

    @property
    def active_client(self) -> ControlClient | None:
        """The control process while the arm is active, else ``None``."""
        return self._driver.active_client

    @property
    def why_inactive(self) -> str:
        """Nothing: the controller tells it."""
        return ""

    @property
    def why_held(self) -> str:
        """Nothing: whoever owns the arm may have it."""
        return ""

    def parameter(self, name: str) -> Any:
        """Value of a setting."""
        return self.settings[name]

    def next_tick(self) -> Awaitable[None]:
        """Done at the next tick."""
        if self._ticked is None:
            raise NotStarted("the arm is not active")
        return asyncio.shield(self._ticked)

    # In the event loop.

    async def _blocking(self, work: Callable[[], None]) -> None:
        assert self._worker is not None
        await uninterrupted(asyncio.get_running_loop().run_in_executor(self._worker, work))

    def _schedule_tick(self, loop: asyncio.AbstractEventLoop, last: float) -> None:
        # After a blocked loop the ticks go on from now: nobody needs those that were missed.
        due = max(last + 1.0 / self.settings["state_rate"], loop.time())
        self._timer = loop.call_at(due, self._tick, loop, due)

    def _tick(self, loop: asyncio.AbstractEventLoop, due: float) -> None:
        """Learn what happened, and let those go on who wait for it."""
        self._schedule_tick(loop, due)
        try:
            ended = self._require_active().poll()
        except ControlProcessDied as error:
            self._end(error)
        else:
            if ended is not None and ended.error is not None:
                self._end(self._driver.cause(ended.error))
        self._on_state()
        ticked, self._ticked = self._ticked, loop.create_future()
        if self._timer is None:
            self._wake(self._ticked)
        self._wake(ticked)

    @staticmethod
    def _wake(ticked: asyncio.Future[None] | None) -> None:
        if ticked is not None and not ticked.done():
            ticked.set_result(None)

    def _end(self, error: FrankaError) -> None:
        """The arm was stopped or lost; it is released."""
        self._driver.active = False
        self._stop_ticking()
        self._stop_beating()
        self._on_end(error)

    def _stop_ticking(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _with_client(self, work: Callable[[ControlClient], object]) -> None:
        """Have the control process do something, where the arm is active; from any thread."""
        client = self._driver.active_client
        if client is not None:  # Otherwise, the settings are written when it is activated.
            with contextlib.suppress(ControlProcessDied):  # The next tick tells of it.
                work(client)

    def _require_active(self) -> ControlClient:
        client = self._driver.active_client
        if client is None:
            raise NotStarted("the arm is not active")
        return client

    # In the thread that may block.

    def _start(self) -> None:
        self._driver.activate()
        client = self._driver.active_client
        assert client is not None
        self._newest = _snapshot(client)
        self._beats = _Beats(client)

    def _stop(self) -> None:
        try:
            if self._driver.active:
                self._driver.deactivate()
        except (ControlStopped, ControlProcessDied, TimeoutError):
            pass  # Released by other means already, or by those that follow.
        finally:
            self._stop_beating()
            self._driver.release()

    def _stop_beating(self) -> None:
        if self._beats is not None:
            self._beats.stop()
            self._beats = None


class _Beats(threading.Thread):
    """Gives the sign of life; a thread, because the event loop may be blocked.

    :param client: whose control process waits for it.
    """

    def __init__(self, client: ControlClient) -> None:
        super().__init__(name="aiofranka_ros-heartbeat", daemon=True)
        self._client = client
        self._stopped = threading.Event()
        self.start()

    def run(self) -> None:
        while not self._stopped.wait(_BEAT_PERIOD):
            self._client.beat()

    def stop(self) -> None:
        """End it; it does not touch the client any more then."""
        self._stopped.set()
        self.join()


def _snapshot(client: ControlClient) -> Snapshot:
    state = client.state()
    return Snapshot(
        stamp=int(state["stamp"]),
        q=state["q"].copy(),
        dq=state["dq"].copy(),
        ee=pose_matrix(np.concatenate((state["position"], state["orientation"]))),
        jacobian=state["jacobian"].copy(),
        mass=state["mass"].copy(),
        tau=state["tau"].copy(),
    )
