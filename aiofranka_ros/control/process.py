"""The control process: ``python -m aiofranka_ros.control.process``, started only by the node.

It has one thread. While the arm is not active, that thread waits for requests on a socket and reports the measured
state a hundred times a second. While the arm is active, the same thread runs the 1 kHz loop, and commands come only
through shared memory. The other side is :mod:`aiofranka_ros.control.client`.

Messages are JSON objects over a Unix socket that keeps their boundaries, so nothing is unpickled. Requests are
``{"do": name, "number": n, ...}``; each is answered by ``{"answers": n, ...}``, with ``"error": class`` if it failed.
Without a request it sends ``{"event": "compiling" | "ready" | "ended" | "warning", ...}``.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import select
import signal
import socket
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from aiofranka_ros.control import fci, libfranka, realtime
from aiofranka_ros.control.libfranka import RobotConnection
from aiofranka_ros.control.loop import ControlLoop, load_kernels
from aiofranka_ros.control.records import MESSAGE_SIZE, Phase
from aiofranka_ros.control.robot_records import RobotSetting
from aiofranka_ros.control.shared_memory import SharedMemory
from aiofranka_ros.errors import ConfigurationError, ConnectionFailed, FrankaError, Problem
from aiofranka_ros.kernels import compiled
from aiofranka_ros.model.kinematics import forward, quaternion_from_matrix

#: How often the measured state is reported while the arm is not active [s].
_IDLE_PERIOD = 0.01


class Server:
    """Answers the requests of the node, process ``parent``, until it is gone."""

    def __init__(self, shared: SharedMemory, channel: socket.socket, parent: int) -> None:
        self._shared = shared
        self._channel = channel
        self._parent = parent
        self._loop = ControlLoop(shared, parent)
        self._arm: RobotConnection | None = None
        self._request = 0  # The number of the one that is carried out.
        self._priority = 0  # SCHED_FIFO priority while the arm is active; 0: none, or none was granted.

    def prepare(self, priority: int) -> None:
        """Do everything that takes time, and have the node log what prevents real-time scheduling."""
        self._publish_phase(Phase.STARTING)
        if not compiled():
            self._send(event="compiling")
        load_kernels()
        missing = realtime.prefer_real_time(priority)
        self._priority = 0 if realtime.NO_SCHEDULING in missing else priority
        for problem in missing:
            self._warn(problem)

    def _warn(self, problem: Problem) -> None:
        self._send(event="warning", message=str(problem))

    def serve(self) -> None:
        """Answer requests until the node closes the socket or dies."""
        self._publish_phase(Phase.DISCONNECTED)
        self._send(event="ready")
        poller = select.poll()
        poller.register(self._channel, select.POLLIN)
        while os.getppid() == self._parent:
            # Without an arm there is nothing to report: only check now and then whether the node still lives.
            if poller.poll(1e3 * (_IDLE_PERIOD if self._arm else 0.2)):
                try:
                    message = self._channel.recv(MESSAGE_SIZE)
                except ConnectionResetError:  # Closed before it read all messages.
                    message = b""
                if not message:
                    break
                self._answer(json.loads(message))
            if self._arm is not None:
                self._report_idle_state(self._arm)
        if self._arm is not None:
            self._arm.close()

    def _answer(self, request: dict[str, Any]) -> None:
        name, self._request = request.pop("do"), request.pop("number")
        handlers: dict[str, Callable[..., dict[str, Any] | None]] = {
            "connect": self._connect, "activate": self._activate, "set": self._set,
        }  # fmt: skip
        try:
            result = handlers[name](**request)
        except FrankaError as error:
            self._send(answers=self._request, **describe(error))
        else:
            if result is not None:
                self._send(answers=self._request, **result)

    def _connect(self, address: str, cpu: int | None) -> dict[str, Any]:
        self._disconnect()
        if self._priority == 0:
            cpu = None  # It would have to share that CPU with all other processes.
        if cpu is not None:
            try:
                os.sched_setaffinity(0, {cpu})
            except OSError:
                raise ConfigurationError(f"realtime_cpu is {cpu}, but this process may not run there") from None
        self._arm = RobotConnection(address)
        if not address.startswith("127.") and not realtime.realtime_kernel():
            self._warn(realtime.NO_REALTIME_KERNEL)
        if self._arm.links is None:
            self._warn(libfranka.OTHER_DYNAMICS)
        self._report_idle_state(self._arm)
        return {"library_version": libfranka.library_version(), "protocol_version": fci.VERSION, "cpu": cpu}

    def _disconnect(self) -> None:
        if self._arm is not None:
            self._arm.close()
            self._arm = None
        self._publish_phase(Phase.DISCONNECTED)

    def _set(self, setting: str, values: list[Any]) -> dict[str, Any]:
        arm = self._connected()
        arm.set(RobotSetting(setting), *values)
        arm.read()  # The robot's state shows it a cycle later.
        self._report_idle_state(arm)
        return {}

    def _activate(self, activation: int) -> None:
        """Control the arm; answers when the first torque was sent, and sends an event at the end."""
        arm = self._connected()
        recovered = arm.recover()
        self._loop.state["robot_tcp"][0] = libfranka.matrix(arm.read().F_T_EE)
        running = False

        def started() -> None:
            nonlocal running
            running = True
            self._send(answers=self._request, recovered=recovered)

        try:
            with realtime.real_time(self._priority):
                end = self._loop.run(arm, activation, started)
        except FrankaError as error:
            self._publish_phase(Phase.CONNECTED)
            if not running:
                raise
            self._send(event="ended", activation=activation, reason="robot", **describe(error))
        else:
            self._publish_phase(Phase.CONNECTED)
            self._send(event="ended", activation=activation, reason=end.value)

    def _connected(self) -> RobotConnection:
        if self._arm is None:
            raise ConnectionFailed("not connected to an arm")
        return self._arm

    def _report_idle_state(self, arm: RobotConnection) -> None:
        try:
            robot = arm.read()
        except ConnectionFailed as error:
            self._disconnect()
            self._send(event="ended", activation=0, reason="connection", **describe(error))
            return
        state, memory = self._loop.state, self._loop.memory
        state["phase"], state["stamp"], state["time"] = Phase.CONNECTED, time.monotonic_ns(), robot.time.to_sec()
        state["hold"] = state["motion_status"] = state["blocked"] = 0  # Those of the last activation are over.
        state["q"][0], state["dq"][0], state["tau"][0] = robot.q, robot.dq, 0.0
        state["robot_tcp"][0] = libfranka.matrix(robot.F_T_EE)
        self._loop.report_robot(robot)
        self._loop.read_commands(0)
        forward(
            state["q"][0], self._loop.commands["flange_to_tcp"][0],
            memory["flange"][0], state["tcp"][0], state["jacobian"][0],
        )  # fmt: skip
        quaternion_from_matrix(state["tcp"][0], state["orientation"][0])
        state["position"][0] = state["tcp"][0, :3, 3]
        state["twist"][0] = state["jacobian"][0] @ state["dq"][0]
        self._shared.state.write(state)
        self._loop.copy_all(robot, int(state["stamp"][0]))

    def _publish_phase(self, phase: Phase) -> None:
        self._loop.state["phase"] = phase
        self._shared.state.write(self._loop.state)

    def _send(self, **message: Any) -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._channel.send(json.dumps(message).encode())


def describe(error: FrankaError) -> dict[str, Any]:
    """An exception as JSON, for the client to raise again."""
    data = {key: value for key, value in vars(error).items() if not key.startswith("_")}
    return {"error": type(error).__name__, "message": str(error), "data": data}


def main() -> None:
    """Serve one node until it is gone."""
    parser = argparse.ArgumentParser(description="The control process of aiofranka_ros; started by the node.")
    parser.add_argument("--shared-memory", type=int, required=True, help="descriptor of the shared memory")
    parser.add_argument("--channel", type=int, required=True, help="descriptor of the socket to the node")
    parser.add_argument("--parent", type=int, required=True, help="process id of the node")
    parser.add_argument("--priority", type=int, default=realtime.PRIORITY, help="SCHED_FIFO priority; 0: none")
    options = parser.parse_args()
    # Ctrl-C in a terminal reaches every process of the group, and so may a service manager's SIGTERM. The node decides
    # when this process ends: the arm must stop first, and that takes time.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    np.seterr(all="ignore")
    channel = socket.socket(fileno=options.channel)
    with SharedMemory(options.shared_memory) as shared:
        server = Server(shared, channel, options.parent)
        server.prepare(options.priority)
        server.serve()
    # Everything is closed, and the node waits: the interpreter's own end would take it another 0.3 s of computing.
    os._exit(0)


if __name__ == "__main__":
    main()
