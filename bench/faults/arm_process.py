"""The process of :class:`bench.faults.arm.FaultyArm`: the simulated arm of this package, which can be pushed.

    python -m bench.faults.arm_process --tape PATH --host 127.0.0.2

This is :mod:`aiofranka_ros.simulation`, with its real-time scheduling, limits and protocol, plus:

- a record of every step of the physics;
- pushes: torques on the joints in addition to the commanded ones. The arm reports them as external torques and wrench,
  and stops with ``joint_reflex`` or ``cartesian_reflex`` if they exceed the collision thresholds of the client;
- the user stop and guiding: the arm leaves the motion for these modes and answers its ``Move`` as the robot does.

A separate thread reads the requests and sleeps between them.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from franka_sim.franka_protocol import (
    LibfrankaControllerMode,
    LibfrankaMotionGeneratorMode,
    MoveStatus,
    RobotMode,
    SetCollisionBehaviorCommand,
)

from aiofranka_ros.simulation import __main__ as simulation
from aiofranka_ros.simulation import model as simulation_model
from bench.faults.arm import STEP
from bench.faults.helper import answer
from bench.faults.tape import Tape

#: Where these errors are in the robot's state: ``Error``, libfranka ``research_interface/robot/error.h``.
_JOINT_REFLEX, _CARTESIAN_REFLEX = 6, 7


class PushedPhysics(simulation_model.ArmPhysics):
    """An arm that can be pushed, recorded at every step.

    :ivar tape: the record; set before the arm starts.
    """

    tape: Tape

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._push = np.zeros(7)
        self._force = np.zeros(3)
        self._until = 0.0
        #: External torques at the joints now [Nm] (7,), and external force and torque [N, Nm] (6,).
        self.external, self.wrench = np.zeros(7), np.zeros(6)

    def push(self, torque: Sequence[float], force: Sequence[float], duration: float) -> None:
        """Push with ``torque`` [Nm] (7,) and ``force`` [N] (3,), at the flange, for ``duration`` [s]."""
        self._push, self._force = np.asarray(torque, dtype=float), np.asarray(force, dtype=float)
        self._until = time.monotonic() + duration

    def _apply_control(self) -> None:
        super()._apply_control()
        if self._until and time.monotonic() < self._until:
            jacobian, _ = self._step_ee_readings()
            self.external = self._push + jacobian[:3].T @ self._force
            self.wrench = np.concatenate((self._force, np.zeros(3)))
            self.data.qfrc_applied[self.arm_dofs_idx] += self.external
        elif self._until:
            self._until, self.external, self.wrench = 0.0, np.zeros(7), np.zeros(6)
        fields, index = self.tape.fields, self.tape.next()
        fields["stamp"][index] = time.time_ns()
        fields["steady"][index] = time.monotonic_ns()
        fields["q"][index] = self.data.qpos[self.arm_qpos_adr]
        fields["dq"][index] = self.data.qvel[self.arm_dofs_idx]
        fields["tau"][index] = self.latest_torques
        self.tape.commit()


class PressedServer(simulation_model.ArmServer):
    """An arm whose user stop can be pressed, that can be guided, and that notices when it is pushed."""

    #: The one of this process.
    current: PressedServer

    def __init__(self, host: str, physics: PushedPhysics, *arguments: Any) -> None:
        self._thresholds = (np.full(7, np.inf), np.full(6, np.inf))
        self._pressed: RobotMode | None = None
        super().__init__(host, physics, *arguments)
        PressedServer.current = self

    def press(self, mode: RobotMode | None) -> None:
        """Go into a mode in which no client may move the arm; ``None``: out of it."""
        with self._motion_lock:
            before, self._pressed = self._pressed, mode
            state = self.robot_state.state
            if mode is None:
                if before is not None:
                    state["robot_mode"] = RobotMode.kIdle
                return
            state["robot_mode"], state["reflex_reason"] = mode, [False] * len(state["reflex_reason"])
            state["motion_generator_mode"] = LibfrankaMotionGeneratorMode.kIdle.value
            state["controller_mode"] = LibfrankaControllerMode.kOther.value
            self._engage_idle_hold(mode.name)
            if self.current_motion_id and self.client_socket is not None:
                status = MoveStatus.kPreemptedDueToActivatedSafetyFunctions
                self._pending_move_response = (self.current_motion_id, status, self._states_packed)
                self.current_motion_id = 0

    def reset_state(self) -> None:
        """Forget the last client, but not what is pressed."""
        super().reset_state()
        if self._pressed is not None:
            self.robot_state.state["robot_mode"] = self._pressed

    def handle_set_collision_behavior_command(self, client_socket: Any, header: Any, payload: bytes) -> None:
        """Keep the thresholds as well as acknowledging them."""
        command = SetCollisionBehaviorCommand.from_bytes(payload)
        self._thresholds = (
            np.asarray(command.upper_torque_thresholds_nominal),
            np.asarray(command.upper_force_thresholds_nominal),
        )
        super().handle_set_collision_behavior_command(client_socket, header, payload)

    def _refuse_move_while_latched(self, client_socket: Any, header: Any) -> bool:
        if self._pressed is None:
            return super()._refuse_move_while_latched(client_socket, header)
        status = MoveStatus.kCommandRejectedDueToActivatedSafetyFunctions
        self.send_move_response(client_socket, command_id=header.command_id, status=status)
        return True

    def _run_safety_velocity_check(self, sim_state: Any) -> None:
        self._run_collision_check()
        super()._run_safety_velocity_check(sim_state)

    def _run_collision_check(self) -> None:
        external, wrench = self.physics_sim.external, self.physics_sim.wrench
        state = self.robot_state.state
        state["tau_ext_hat_filtered"], state["O_F_ext_hat_K"] = external.tolist(), wrench.tolist()
        motion = self.motion_limits.motion_id
        if not external.any() or not motion:
            return
        torque, force = self._thresholds
        reflexes = [
            index
            for index, hit in (
                (_JOINT_REFLEX, (np.abs(external) > torque).any()),
                (_CARTESIAN_REFLEX, (np.abs(wrench) > force).any()),
            )
            if hit
        ]
        if reflexes:
            self._abort_with_error(reflexes, "a collision", motion)


def _status() -> dict[str, Any]:
    state = PressedServer.current.robot_state.state
    return {"robot_mode": int(state["robot_mode"]), "errors": [n for n, is_set in enumerate(state["errors"]) if is_set]}


def _push(torque: Sequence[float], duration: float) -> None:
    PressedServer.current.physics_sim.push(torque, [0.0] * 3, duration)


def _touch(force: Sequence[float], duration: float) -> None:
    PressedServer.current.physics_sim.push([0.0] * 7, force, duration)


_HANDLERS: dict[str, Any] = {
    "status": _status,
    "push": _push,
    "touch": _touch,
    "stop_by_user": lambda: PressedServer.current.press(RobotMode.kUserStopped),
    "guide": lambda: PressedServer.current.press(RobotMode.kGuiding),
    "let_go": lambda: PressedServer.current.press(None),
}


def _listen() -> None:
    for line in sys.stdin:
        answer(line, _HANDLERS)
    os.kill(os.getpid(), signal.SIGTERM)  # The process that sends requests is gone.


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve the arm until SIGTERM.

    :returns: exit status, as :func:`aiofranka_ros.simulation.__main__.main`.
    """
    parser = argparse.ArgumentParser(description="A simulated arm for fault injection; started by bench.faults.")
    parser.add_argument("--tape", type=Path, required=True, help="tape to record every step on")
    options, rest = parser.parse_known_args(arguments)
    PushedPhysics.tape = Tape(STEP, options.tape)
    simulation_model.ArmPhysics = PushedPhysics  # type: ignore[misc]
    simulation_model.ArmServer = PressedServer  # type: ignore[misc]
    threading.Thread(target=_listen, name="requests", daemon=True).start()
    return simulation.main(rest)


if __name__ == "__main__":
    sys.exit(main())
