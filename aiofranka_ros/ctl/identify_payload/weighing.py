"""What the arm carries: measure it through a running node, and tell the robot.

Called by :mod:`aiofranka_ros.ctl.identify_payload.__main__`, in its one thread; the formulas are in
:mod:`aiofranka_ros.model.payload`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from franka_msgs.msg import FrankaRobotState
from franka_msgs.srv import SetLoad

from aiofranka_ros.ctl import commands
from aiofranka_ros.ctl.client import Failed, NodeClient
from aiofranka_ros.kernels import Array
from aiofranka_ros.model import payload
from aiofranka_ros.model.payload import Payload

#: How long the arm must rest before its external torques are read, and for how long they are averaged [s]: the robot
#: filters them, and the arm swings a little after a move.
_SETTLING, _AVERAGED = 0.5, 0.5
#: An arm faster than this does not rest [rad/s], and how long it may take to stop [s].
_RESTS, _PATIENCE = 0.02, 15.0
#: How many states are kept: enough for both times at a thousand a second.
_KEPT = 4000
#: A load that is set for a moment, to see that external torques follow it, and with which sign [kg].
_TEST_MASS = 0.5
#: How far the external torques may differ from what that load weighs, as a share of it.
_TEST_ERROR = 0.5
#: What an FR3 carries, and can be told to carry [kg].
HEAVIEST = 3.0
#: Radius of the ball whose inertia a load is taken to have [m]: at rest, inertia does not show.
_RADIUS = 0.05


class Load(NamedTuple):
    """A load as a robot knows it.

    :ivar mass: [kg].
    :ivar center: centre of mass in the flange [m] (3,).
    :ivar inertia: about the centre of mass [kg m²] (3, 3).
    """

    mass: float
    center: Array
    inertia: Array

    @property
    def numbers(self) -> Array:
        """See :func:`.payload.numbers`."""
        return payload.numbers(self.mass, self.center)


def ball(mass: float, center: Array) -> Load:
    """A load with the inertia of a small ball."""
    return Load(mass, np.asarray(center, dtype=float), 0.4 * mass * _RADIUS**2 * np.eye(3))


NOTHING = ball(0.0, np.zeros(3))


class Scale:
    """Weighs what the arm of a node carries.

    :param client: of the node, which no other client uses.
    """

    def __init__(self, client: NodeClient) -> None:
        self._client = client
        self._states: deque[FrankaRobotState] = deque(maxlen=_KEPT)
        client.node.create_subscription(
            FrankaRobotState, f"{client.name}/robot_state", lambda message: self._states.append(message), 100
        )
        self._set_load = client.node.create_client(SetLoad, f"{client.name}/set_load")

    def state(self) -> FrankaRobotState:
        """The state of the robot, received after this call."""
        self._states.clear()
        self._client.wait(lambda: self._states, f"nothing comes on {self._client.name}/robot_state", _PATIENCE)
        return self._states[-1]

    def q(self) -> Array:
        """Joint positions now [rad] (7,)."""
        return np.array(self.state().measured_joint_state.position)

    def load(self) -> Load:
        """The load that the robot has been told."""
        found = self.state().inertia_load.inertia
        inertia = np.array(
            [[found.ixx, found.ixy, found.ixz], [found.ixy, found.iyy, found.iyz], [found.ixz, found.iyz, found.izz]]
        )
        return Load(found.m, np.array([found.com.x, found.com.y, found.com.z]), inertia)

    def tell(self, load: Load) -> None:
        """Tell the robot, whose arm must not be active.

        :raises Failed: it refused.
        """
        request = SetLoad.Request(
            mass=float(load.mass), center_of_mass=load.center.tolist(), load_inertia=load.inertia.T.ravel().tolist()
        )
        answer = self._client.call(self._set_load, request)
        if not answer.success:
            raise Failed(f"{self._client.name} did not set the load: {answer.error}")

    def read(self) -> tuple[Array, Array]:
        """Joint positions [rad] (7,) and external torques [Nm] (7,) of the arm at rest, averaged.

        :raises Failed: it does not stop.
        """
        self._states.clear()

        def rested() -> bool:
            states = self._states
            if states and max(map(abs, states[-1].measured_joint_state.velocity)) > _RESTS:
                states.clear()
            return bool(states) and states[-1].time - states[0].time > _SETTLING + _AVERAGED

        self._client.wait(rested, "the arm does not rest", _PATIENCE)
        end = self._states[-1].time
        kept = [state for state in self._states if state.time >= end - _AVERAGED]
        positions = [state.measured_joint_state.position for state in kept]
        return np.mean(positions, axis=0), np.mean([state.tau_ext_hat_filtered.effort for state in kept], axis=0)

    def prepare(self) -> float:
        """Have the robot know a first estimate, so that the arm does not sink or stop because of an unknown load.

        Leaves the arm inactive.

        :returns: the sign of external torques: 1 if they are those of a weight, -1 if those of the joints against it.
            libfranka does not document it.
        :raises Failed: external torques do not follow the load that the robot is told.
        """
        present = self.load()
        if self._client.state == "active":
            commands.change(self._client, "deactivate")
        q, before = self.read()
        more = _TEST_MASS if present.mass + _TEST_MASS <= HEAVIEST else -_TEST_MASS
        self.tell(ball(present.mass + more, present.center))
        try:
            _, after = self.read()
        finally:
            self.tell(present)
        # What the robot knows is no longer external.
        expected = payload.weight_torques(q) @ payload.numbers(-more, present.center)
        seen = after - before
        size = float(expected @ expected)
        sign = float(np.sign(expected @ seen)) or 1.0
        if np.linalg.norm(sign * seen - expected) > _TEST_ERROR * np.sqrt(size):
            raise Failed(
                "the robot's external torques do not follow the load that it is told, so nothing can be weighed: is "
                "the arm touched, or so straight above its base that a load turns no joint?"
            )
        mass = present.mass + payload.rough_mass(q, sign * before)
        self.tell(ball(min(max(mass, 0.0), HEAVIEST), present.center))
        return sign

    def weigh(self, poses: Array, sign: float, velocity: float | None, advance: Callable[[], Any]) -> Payload:
        """Move through ``poses`` [rad] (n, 7) and read the external torques in each; the arm must be active.

        :param sign: see :meth:`prepare`.
        :param velocity: largest velocity of every joint [rad/s]; ``None``: that of the node.
        :param advance: called after each pose.
        :raises Failed: the arm did not get there.
        """
        known = self.load().numbers
        found = []
        for pose in poses:
            commands.move(self._client, pose.tolist(), velocity)
            found.append(self.read())
            advance()
        positions, torques = map(np.array, zip(*found, strict=True))
        try:
            return payload.fit(positions, sign * torques, known)
        except ValueError as error:
            raise Failed(f"nothing can be said: {error}") from error
