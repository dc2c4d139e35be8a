"""Everything that drives one arm: its control process, its settings, and the simulated arm if there is no robot.

Used by the node and by :class:`~aiofranka_ros.api.robot_interface.RobotInterface`, in the process and thread that call
it. It knows neither ROS nor asyncio; the methods that change what the arm does block until that is done.

    configure    start the simulated arm if there is one, start the control process, connect
    activate     take torque control and hold where the arm is; connect first if the arm was lost
    deactivate   stop smoothly and release
    release      disconnect, end the control process and the simulated arm

After each of them, successful or not, the arm is either held or released.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from aiofranka_ros.arm import chunk_paths, limit_checks
from aiofranka_ros.arm.settings import ArmSettings
from aiofranka_ros.control.client import ControlClient
from aiofranka_ros.control.compilation import compile_kernels, report_compiling
from aiofranka_ros.control.robot_records import RobotSetting
from aiofranka_ros.errors import CommandRefused, ConnectionFailed, ControlProcessDied, ControlStopped, FrankaError
from aiofranka_ros.processes import NEVER, StopRequest
from aiofranka_ros.simulation.simulated_arm import SimulatedArm, cpu_for

_log = logging.getLogger(__name__)


class Driver:
    """One arm and the processes that drive it.

    :param on_compiling: called if a start takes long, because kernels have to be compiled first.
    """

    def __init__(self, settings: ArmSettings, on_compiling: Callable[[], object] = lambda: None) -> None:
        self._settings = settings
        self._on_compiling = on_compiling
        self.client: ControlClient | None = None  #: the control process; ``None`` if the arm is not configured
        self.address = ""  #: of the connected arm, also a simulated one; empty if none is connected
        self.cpu: int | None = None  #: CPU that only the control process uses; ``None`` if it may run on any
        self.versions: dict[str, Any] = {}  #: of libfranka and its protocol, once they are known
        self.active = False  #: whether the arm is under torque control
        self._arm: SimulatedArm | None = None

    @property
    def active_client(self) -> ControlClient | None:
        """The control process while the arm is active, else ``None``."""
        return self.client if self.active else None

    @property
    def details(self) -> dict[str, Any]:
        """What a report should say of the arm and this computer, as JSON has it."""
        client = self.client
        return {
            "address": self.address or self._settings["robot_ip"],
            "versions": {name: str(version) for name, version in self.versions.items()},
            "missing": [] if client is None else list(client.missing),
            "pid": os.getpid(),
            "control_pid": None if client is None else client.pid,
            "kernel": os.uname().release,
        }

    def configure(self, stop: StopRequest = NEVER) -> None:
        """Start the processes and connect; after a failure nothing is left running.

        :raises Interrupted: ``stop`` was requested.
        :raises ConnectionFailed: no robot answers, its FCI is not active, or it speaks another protocol version.
        :raises ArmInUse: another process on this machine already drives it.
        :raises CommandRefused: the robot does not accept the collision thresholds.
        :raises ControlProcessDied: the control process did not come up.
        :raises SimulationError: the simulated arm did not come up.
        """
        address = self._settings["robot_ip"]
        _log.info("connecting to %s", "a simulated arm" if address == "sim" else f"the robot at {address}")
        cpu = self._settings["realtime_cpu"] if self._settings["realtime_cpu"] >= 0 else None
        self.client = client = ControlClient(priority=self._settings["realtime_priority"])
        try:
            if address == "sim":
                self._arm = arm = SimulatedArm()
                with ThreadPoolExecutor(1, "simulated-arm") as pool:  # Each of the two takes seconds to start.
                    started = pool.submit(arm.start, stop)
                    client.start(stop=stop, on_compiling=self._report_compiling)
                started.result()
                address, cpu = arm.host, cpu_for(arm.host) if cpu is None else cpu
            else:
                client.start(stop=stop, on_compiling=self._report_compiling)
            compile_kernels(stop)  # The control process has compiled its own.
            limit_checks.load_kernels()
            chunk_paths.load_kernels()
            answer = client.connect(address, cpu=cpu, stop=stop)
            client.update(self._settings.commands(client.state()["robot_tcp"]))
            self._settings.apply_collision_behavior(client)
        except BaseException:
            self.release()
            raise
        self.address, self.cpu = address, answer["cpu"]
        self.versions = {"libfranka": answer["library_version"], "FCI protocol": answer["protocol_version"]}
        _log.info("connected to the robot at %s, libfranka %s", address, answer["library_version"])

    def activate(self, stop: StopRequest = NEVER) -> bool:
        """Clear a reflex if there is one, take torque control and hold where the arm is.

        An arm that is not connected, or was lost since, is connected first.

        :returns: whether a reflex was cleared.
        :raises Interrupted: ``stop`` was requested; the arm is disconnected.
        :raises FrankaError: see :meth:`configure` and :meth:`.ControlClient.activate`.
        """
        if self.client is not None:
            try:
                return self._take_control(self.client, stop)
            except (ConnectionFailed, ControlProcessDied) as error:
                _log.warning("%s: connecting again", error)
                self.release()
        self.configure(stop)
        return self._take_control(self._require_client(), stop)

    def _take_control(self, client: ControlClient, stop: StopRequest) -> bool:
        client.poll()  # Forget how the last activation ended.
        client.update(self._settings.commands(client.state()["robot_tcp"]))
        try:
            recovered = client.activate(stop=stop)
            self._settings.follow_robot(client)  # Desk may have changed it a moment ago.
        except BaseException as error:
            # Refused, or stopped at once: the robot is not under control. After anything else it may be.
            if not isinstance(error, (CommandRefused, ControlStopped)):
                self.release()
            raise
        self.active = True
        note = " after clearing a reflex" if recovered else ""
        _log.info("active%s, %s; mode %s", note, self._settings.at_first, self._settings["mode"])
        return recovered

    def _report_compiling(self) -> None:
        report_compiling()
        self._on_compiling()

    def set_robot(self, setting: RobotSetting, *values: Any) -> None:
        """Set something in the robot itself, see :meth:`.ControlClient.set_robot`."""
        client = self._require_client()
        client.set_robot(setting, *values)
        self._settings.follow_robot(client)  # ``setting`` may be the end effector.

    def deactivate(self) -> None:
        """Stop smoothly and release the arm.

        :raises ControlStopped: the robot stopped first; it is released all the same.
        :raises ControlProcessDied: the control process is gone.
        :raises TimeoutError: the arm was not released in time; call :meth:`release`.
        """
        self.active = False
        self._require_client().deactivate()

    def release(self) -> None:
        """End the control process, which stops the arm first, and the simulated arm; idempotent."""
        self.active, self.address, self.cpu = False, "", None
        client, arm, self.client, self._arm = self.client, self._arm, None, None
        if client is not None:
            client.close()
        if arm is not None:
            arm.close()

    def cause(self, error: FrankaError) -> FrankaError:
        """``error``, or its cause: if the simulated arm died, the connection to it is lost."""
        if self._arm is not None and not self._arm.alive and isinstance(error, ConnectionFailed):
            return ConnectionFailed("the simulated arm died")
        return error

    def _require_client(self) -> ControlClient:
        if self.client is None:
            raise ControlProcessDied("the control process is not running")
        return self.client
