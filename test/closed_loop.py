"""The control cycle and the simulator's physics in one process: what the arm does, without network, clock or ROS."""

from __future__ import annotations

import mujoco
import numpy as np
from franka_sim.control_modes import ControlMode

from aiofranka_ros.control.defaults import default_commands
from aiofranka_ros.control.law import cycle as control_cycle
from aiofranka_ros.control.law.memory import MEMORY, SCRATCH
from aiofranka_ros.control.records import CHUNK, MEASURED, MOTION, Mode, new
from aiofranka_ros.model import fr3
from aiofranka_ros.simulation.model import ArmPhysics


class ClosedLoop:
    """An arm at home, or at ``q`` [rad] (7,), in ``mode``; time advances in :meth:`run` only."""

    def __init__(self, mode: Mode = Mode.OSC, q: np.ndarray = fr3.HOME, **settings: object) -> None:
        self.commands, self.motion, self.chunk = default_commands(), new(MOTION), new(CHUNK)
        self.measured, self.memory, self.scratch = new(MEASURED), new(MEMORY), new(SCRATCH)
        for name, value in ({"mode": mode, "mode_id": 1} | settings).items():
            self.commands[name] = value
        self.measured["elapsed"] = fr3.CYCLE
        self._physics = physics = ArmPhysics()
        physics.initialize_simulation()
        physics.set_control_mode(ControlMode.TORQUE)
        physics.data.qpos[physics.arm_qpos_adr], physics.data.qvel[:] = q, 0.0
        mujoco.mj_forward(physics.model, physics.data)
        self._mass = np.zeros((physics.model.nv, physics.model.nv))
        self._measure()
        self.run(0.3)

    @property
    def position(self) -> np.ndarray:
        """Of the hand [m] (3,)."""
        return self.memory["position"][0].copy()

    @property
    def orientation(self) -> np.ndarray:
        """Of the hand (4,)."""
        return self.memory["orientation"][0].copy()

    def run(self, seconds: float) -> np.ndarray:
        """Let time pass; returns the hand's speed in each cycle [m/s] (n,)."""
        speeds = np.empty(round(seconds / fr3.CYCLE))
        for cycle in range(len(speeds)):
            state = self.measured
            control_cycle.step(self.commands, self.motion, self.chunk, state, self.memory, self.scratch, 0)
            state["tau_last"] = self.memory["tau"]
            self._physics.update_torques(self.memory["tau"][0].copy())
            self._physics.step()
            state["time"] += fr3.CYCLE
            self._measure()
            speeds[cycle] = np.linalg.norm(self.memory["twist"][0, :3])
        return speeds

    def stream(self, position: np.ndarray, orientation: np.ndarray, seconds: float) -> np.ndarray:
        """Send one pose at 50 Hz; returns the hand's speed in each cycle [m/s] (n,)."""
        speeds = []
        for _ in range(round(50 * seconds)):
            self.commands["target_position"], self.commands["target_orientation"] = position, orientation
            self.commands["target_mode_id"] = self.commands["mode_id"]
            self.commands["target_id"] += 1
            speeds.append(self.run(0.02))
        return np.concatenate(speeds)

    def push(self, *force: float, link: int = 7) -> None:
        """Push a link with a force along the axes of the base [N] from now on, and a torque if six are given [Nm]."""
        body = self._physics.model.body(f"fr3_link{link}").id
        self._physics.data.xfrc_applied[body] = np.resize(np.append(force, [0.0] * 3), 6)

    @property
    def friction(self) -> np.ndarray:
        """Of the joints [Nm] (7,)."""
        return self._physics.model.dof_frictionloss[self._physics.arm_dofs_idx]

    def _measure(self) -> None:
        physics, dofs = self._physics, self._physics.arm_dofs_idx
        self.measured["q"] = physics.data.qpos[physics.arm_qpos_adr]
        self.measured["dq"] = physics.data.qvel[dofs]
        mujoco.mj_fullM(physics.model, self._mass, physics.data.qM)
        # As from libfranka: without the motors.
        self.measured["mass"] = self._mass[np.ix_(dofs, dofs)] - np.diag(physics.model.dof_armature[dofs])
