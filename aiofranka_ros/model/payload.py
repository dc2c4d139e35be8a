"""Mass and centre of mass of what the arm carries, from the external torques of its joints at rest.

Used by the program ``identify_payload``. At rest, the only external torques are those of a weight that the robot does
not know. They are linear in four numbers: the mass, and the mass times the centre of mass in the flange (Atkeson, An
and Hollerbach, "Estimation of inertial parameters of manipulator loads and links", IJRR 1986). A robot's estimate of
its external torques also has an error of each joint, which changes little while the arm moves a little, so it is
fitted, too.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from aiofranka_ros.kernels import Array
from aiofranka_ros.model import fr3
from aiofranka_ros.model.kinematics import control_frame, forward

#: Gravity in the base of an arm that stands upright [m/s²], as libfranka's default.
GRAVITY = np.array([0.0, 0.0, -9.81])
#: How far joints turn to each side of the present pose [rad]: the lower arm, to tell a mass from errors of the joints;
#: the wrist, for the centre of mass. Joints 1 and 3 would only move the hand far.
RANGE = np.array([0.0, 0.2, 0.0, 0.2, 0.4, 0.4, 0.4])
#: Poses keep this distance from the joints' limits [rad].
_MARGIN = 0.1
#: How large the constant error of a joint may well be (one standard deviation), and the least noise [Nm].
_ERROR, _NOISE = 0.5, 0.02
#: How far in front of the flange a load is taken to be before anything is known [m].
_USUAL_DISTANCE = 0.05


class Payload(NamedTuple):
    """What the arm carries, and how well that is known.

    :ivar mass: [kg].
    :ivar center: centre of mass in the flange [m] (3,); NaN if the mass is next to nothing.
    :ivar mass_error, center_error: standard deviations [kg], [m] (3,).
    :ivar residual: root mean square of the torques that it does not explain [Nm].
    """

    mass: float
    center: Array
    mass_error: float
    center_error: Array
    residual: float

    @property
    def is_something(self) -> bool:
        """Whether the arm surely carries anything."""
        return self.mass > 2.0 * self.mass_error


def weight_torques(q: Array) -> Array:
    """Torques of a weight at the joints [Nm] (7, 4), at positions ``q`` [rad] (7,).

    :returns: for a mass of 1 kg in the flange's origin, and for mass times centre of mass of 1 kg m along each of the
        flange's axes.
    """
    flange, tcp, jacobian = np.empty((4, 4)), np.empty((4, 4)), np.empty((6, 7))
    forward(np.asarray(q, dtype=float), np.eye(4), flange, tcp, jacobian)
    moments = np.cross(flange[:3, :3].T, GRAVITY)  # Of a unit weight one metre along each axis.
    return np.column_stack((jacobian[:3].T @ GRAVITY, jacobian[3:].T @ moments.T))


def numbers(mass: float, center: Array) -> Array:
    """The four numbers that torques are linear in (4,)."""
    return np.concatenate(([mass], mass * np.asarray(center, dtype=float)))


def poses_around(q: Array, share: float = 1.0) -> Array:
    """Joint positions [rad] (n, 7) whose weights tell the four numbers apart, beginning and ending at ``q`` (7,).

    Each is visited twice, the second time coming from the other side, so that friction cancels.

    :param share: of :data:`RANGE`.
    """
    poses = [q]
    for joint in np.flatnonzero(RANGE):
        for side in (-1.0, 1.0):
            turned = q.copy()
            turned[joint] += side * share * RANGE[joint]
            poses.append(np.clip(turned, fr3.POSITION_LOWER + _MARGIN, fr3.POSITION_UPPER - _MARGIN))
    return np.array([*poses, *reversed(poses)])


def reach(poses: Array) -> float:
    """How far the flange moves from where it is in the first of ``poses`` (n, 7), at most [m]."""
    positions = np.array([control_frame(q)[:3, 3] for q in poses])
    return float(np.linalg.norm(positions - positions[0], axis=1).max())


def rough_mass(q: Array, torques: Array) -> float:
    """A first estimate of the mass [kg], from external ``torques`` [Nm] (7,) at one pose ``q`` [rad] (7,)."""
    column = weight_torques(q) @ numbers(1.0, np.array([0.0, 0.0, _USUAL_DISTANCE]))
    return float(column @ torques / (column @ column))


def fit(q: Array, torques: Array, known: Array) -> Payload:
    """The load that explains external torques at rest.

    :param q: [rad] (n, 7).
    :param torques: [Nm] (n, 7); positive: the weight's own, not those of the joints against it.
    :param known: the four numbers of the load that the robot knew (4,), see :func:`numbers`.
    :raises ValueError: the poses do not tell the four numbers apart.
    """
    count = len(q)
    columns = np.zeros((7 * count, 11))
    columns[:, :4] = np.concatenate([weight_torques(each) for each in q])
    columns[:, 4:] = np.tile(np.eye(7), (count, 1))  # Errors of the joints.
    prior = np.hstack((np.zeros((7, 4)), np.eye(7) / _ERROR))
    measured = np.asarray(torques, dtype=float).ravel()
    noise = _NOISE
    for _ in range(3):  # How noisy it is shows only afterwards.
        rows = np.vstack((columns / noise, prior))
        information = rows.T @ rows
        if np.linalg.cond(information) > 1e12:
            raise ValueError("the poses are too much alike to tell the mass from its centre")
        found = np.linalg.solve(information, columns.T @ measured / noise**2)
        residual = float(np.sqrt(np.mean((measured - columns @ found) ** 2)))
        noise = max(_NOISE, residual)
    covariance = np.linalg.inv(information)[:4, :4]
    total = found[:4] + known
    unknown = np.full(3, np.nan)
    result = Payload(float(total[0]), unknown, float(np.sqrt(covariance[0, 0])), unknown, residual)
    if not result.is_something:
        return result
    center = total[1:] / result.mass
    change = np.hstack((-center[:, None], np.eye(3))) / result.mass  # Of the centre with the four numbers.
    return result._replace(center=center, center_error=np.sqrt(np.diag(change @ covariance @ change.T)))
