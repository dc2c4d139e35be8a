"""What people do to the simulated arm: push it, have it carry something, press its user stop, guide it by hand.

Used in the simulator's process: :mod:`aiofranka_ros.simulation.remote` gets the requests on its thread, and the physics
and the protocol of :mod:`aiofranka_ros.simulation.model` take them into account on theirs. ``franka_sim`` computes no
external forces, so a collision is detected here, with the thresholds that the client has set.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import mujoco
import numpy as np
from franka_sim.franka_protocol import (
    LibfrankaControllerMode,
    LibfrankaMotionGeneratorMode,
    MoveStatus,
    RobotMode,
    SetCollisionBehaviorCommand,
)

from aiofranka_ros.errors import SimulationError
from aiofranka_ros.simulation.model import PREFIX, ArmPhysics, ArmServer

#: Where these errors are in the robot's state: ``Error``, libfranka ``research_interface/robot/error.h``.
_JOINT_REFLEX, _CARTESIAN_REFLEX = 6, 7
#: Longest push [s], and its largest force and torque [N, Nm]: more would say nothing about a robot.
_LONGEST, _STRONGEST = 60.0, 1000.0
#: Heaviest load [kg], its greatest distance from the flange [m], and the radius of the ball that it is [m].
_HEAVIEST, _FURTHEST, _RADIUS = 10.0, 0.5, 0.05
#: External torques of the joints and wrench while nothing acts on the arm; never changed.
_NOTHING = np.zeros(7), np.zeros(6)


class TouchedPhysics(ArmPhysics):
    """An arm that can be pushed, and that can carry something."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._push: tuple[np.ndarray, np.ndarray, float] | None = None
        # Mass, and mass times centre of mass in the flange, of what it carries and of what its client has set (4,); and
        # the difference, if there is any.
        self._carried, self._known = np.zeros(4), np.zeros(4)
        self._unknown: np.ndarray | None = None
        #: External torques at the joints now [Nm] (7,), and external force and torque [N, Nm] (6,).
        self.external, self.wrench = _NOTHING

    def push(self, force: Sequence[float], torque: Sequence[float], duration: float) -> None:
        """Push with ``force`` [N] (3,) at the flange, in the base, and ``torque`` [Nm] (7,), for ``duration`` [s].

        :raises SimulationError: a number or a size cannot be used.
        """
        push = np.array(force, dtype=float), np.array(torque, dtype=float)
        if push[0].shape != (3,) or push[1].shape != (7,) or not max(map(_largest, push)) <= _STRONGEST:
            raise SimulationError(
                f"a push is a force (3 values) and torques of the joints (7 values), each within {_STRONGEST:g}; it is "
                f"{push[0].tolist()} N and {push[1].tolist()} Nm"
            )
        if not 0.0 < duration <= _LONGEST:
            raise SimulationError(f"a push takes more than 0 and at most {_LONGEST:g} s; it is {duration:g} s")
        self._push = *push, time.monotonic() + duration

    def carry(self, mass: float, center: Sequence[float]) -> None:
        """Carry a ball of ``mass`` [kg] whose centre is at ``center`` in the flange [m] (3,); 0 kg: nothing.

        :raises SimulationError: a number or a size cannot be used.
        """
        place = np.array(center, dtype=float)
        if place.shape != (3,) or not 0.0 <= mass <= _HEAVIEST or not _largest(place) <= _FURTHEST:
            raise SimulationError(
                f"a load is a mass of 0 to {_HEAVIEST:g} kg and a centre of mass (3 values), each within "
                f"{_FURTHEST:g} m; it is {mass:g} kg at {place.tolist()} m"
            )
        with self._stepping:
            model, body = self.model, self.model.body(f"{PREFIX}link8").id  # The flange, which itself has no mass.
            model.body_mass[body], model.body_ipos[body] = mass, place
            model.body_inertia[body] = 0.4 * mass * _RADIUS**2
            mujoco.mj_setConst(model, mujoco.MjData(model))
            self._carried = np.array([mass, *(mass * place)])
        self._compare()

    def know(self, mass: float, center: Sequence[float]) -> None:
        """Compensate the weight of the load that the client has set; arguments as in :meth:`carry`."""
        self._known = np.array([mass, *(mass * np.asarray(center))])
        self._compare()

    def _compare(self) -> None:
        unknown = self._carried - self._known
        self._unknown = unknown if unknown.any() else None

    def _apply_control(self) -> None:
        super()._apply_control()
        push, load = self._push, self._unknown
        if push is not None and time.monotonic() >= push[2]:
            push = self._push = None
        if push is None and load is None:
            self.external, self.wrench = _NOTHING
            return
        force, torque = push[:2] if push is not None else (np.zeros(3), np.zeros(7))
        load = np.zeros(4) if load is None else load
        jacobian, end_effector = self._step_ee_readings()
        rotation = self.data.xmat[self.ee_body_id].reshape(3, 3)
        # MuJoCo compensates the weight of the load as it does the arm's own, so what is unknown is added here.
        weight = load[0] * self.model.opt.gravity
        moment = np.cross(rotation @ load[1:], self.model.opt.gravity)
        lever = self.data.xpos[self.ee_body_id] - end_effector[:3, 3]
        self.wrench = np.concatenate((force + weight, moment + np.cross(lever, weight)))
        self.external = torque + jacobian.T @ self.wrench
        self.data.qfrc_applied[self.arm_dofs_idx] += self.external


class TouchedServer(ArmServer):
    """An arm whose user stop can be pressed, that can be guided, and that notices when it is pushed."""

    current_motion_id: Any

    def __init__(self, host: str, physics: TouchedPhysics, *arguments: Any) -> None:
        self._thresholds = (np.full(7, np.inf), np.full(6, np.inf))
        self._pressed: RobotMode | None = None
        super().__init__(host, physics, *arguments)

    def handlers(self) -> dict[str, Any]:
        """What can be asked of the arm, by name; see :mod:`aiofranka_ros.simulation.remote`."""
        return {
            "push": self.physics_sim.push,
            "load": self.physics_sim.carry,
            "stop": lambda: self._press(RobotMode.kUserStopped),
            "guide": lambda: self._press(RobotMode.kGuiding),
            "release": lambda: self._press(None),
            "status": self._status,
        }

    def _status(self) -> dict[str, Any]:
        state = self.robot_state.state
        return {
            "robot_mode": int(state["robot_mode"]),
            "errors": [number for number, is_set in enumerate(state["errors"]) if is_set],
        }

    def _press(self, mode: RobotMode | None) -> None:
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
        """Forget the last client and the load that it has set, but not what is pressed or carried."""
        super().reset_state()
        self.physics_sim.know(0.0, [0.0] * 3)
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

    def handle_set_load_command(self, client_socket: Any, header: Any, payload: bytes) -> None:
        """Compensate the load's weight as well as reporting it."""
        super().handle_set_load_command(client_socket, header, payload)
        state = self.robot_state.state
        self.physics_sim.know(state["m_load"], state["F_x_Cload"])

    def _refuse_move_while_latched(self, client_socket: Any, header: Any) -> bool:
        if self._pressed is None:
            refused: bool = super()._refuse_move_while_latched(client_socket, header)
            return refused
        status = MoveStatus.kCommandRejectedDueToActivatedSafetyFunctions
        self.send_move_response(client_socket, command_id=header.command_id, status=status)
        return True

    def _run_safety_velocity_check(self, sim_state: Any) -> None:
        if self._pressed is not None:  # The end of a motion or of a recovery has set another mode.
            self.robot_state.state["robot_mode"] = self._pressed
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


def _largest(values: np.ndarray) -> float:
    """Largest absolute value; NaN if one is."""
    return float(np.abs(values).max(initial=0.0))
