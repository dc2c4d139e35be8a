"""franka_ros2's services, which set something in the robot itself: its load, its frames, when it sees a collision.

Used by the node, in its process and its one thread. What a request says is checked here, completely; whatever is wrong
with it, or with the moment, is the answer's ``error``.

The robot takes such settings only while no motion runs. Where the arm is active, a service refuses, or, with
``restart_if_needed``, lets the node stop the arm smoothly, sets it, and activates the arm again where it is. That takes
several ticks of the node, in which whoever moved the arm learns why it ended; hence services are coroutines.

What is set lasts as long as the robot keeps it, or until Desk changes it. ``configure`` sets nothing of it again but
the collision thresholds, which are parameters, too: a service changes these with the robot's.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from franka_msgs import srv
from rclpy.lifecycle import LifecycleNode, TransitionCallbackReturn

from aiofranka_ros.arm import moves
from aiofranka_ros.arm.setting_table import SETTINGS
from aiofranka_ros.control.client import ControlClient
from aiofranka_ros.control.records import RobotSetting
from aiofranka_ros.errors import CommandRefused, ConfigurationError, FrankaError
from aiofranka_ros.kernels import Array
from aiofranka_ros.node.diagnostics import Trouble
from aiofranka_ros.setting import Setting

#: What the names of the services begin with: this node's, and those of franka_ros2.
PREFIXES = ("~/", "service_server/")
#: How far a transformation may be from a rigid one that is taken for rounding and corrected.
_ROUNDING = 1e-3
#: How far an inertia may be from a symmetric, positive semidefinite one, relative to its largest element.
_INERTIA_ROUNDING = 1e-6

_LOAD = (
    Setting("mass", 0.0, "Mass of the load.", unit="kg", low=0.0, high=3.0, source="payload, datasheet of the FR3"),
    Setting("center_of_mass", (0.0,) * 3, "In the flange.", unit="m", low=-1.0, high=1.0),
    Setting("load_inertia", (0.0,) * 9, "About that center.", unit="kg m^2", low=-3.0, high=3.0, source="3 kg at 1 m"),
)
_TRANSFORMATION = Setting("transformation", (0.0,) * 16, "Columns first.", unit="m and 1", low=-2.0, high=2.0)
_JOINT_STIFFNESS = Setting(
    "joint_stiffness", (0.0,) * 7, "Of the robot's own controller.", unit="Nm/rad", low=0.0, high=14250.0,
    source="Robot::setJointImpedance, libfranka robot.h",
)  # fmt: skip
_CARTESIAN_STIFFNESS = Setting(
    "cartesian_stiffness", (0.0,) * 6, "Of the robot's own controller.", unit="N/m and Nm/rad",
    low=(10.0,) * 3 + (1.0,) * 3, high=(3000.0,) * 3 + (300.0,) * 3,
    source="Robot::setCartesianImpedance, libfranka robot.h",
)  # fmt: skip
#: Parameters that say at which external torques and forces the robot stops, by the kind of threshold.
_THRESHOLDS = {
    kind: next(setting for setting in SETTINGS if setting.name == f"collision_{kind}_thresholds")
    for kind in ("torque", "force")
}


class Owner(moves.ArmOwner, Protocol):
    """What the services need of the node."""

    @property
    def configured(self) -> bool:
        """Whether the node is inactive or active; the arm may be lost nevertheless."""

    @property
    def client(self) -> ControlClient | None:
        """The control process; ``None`` where the node is not configured, or lost the arm."""

    @property
    def moving(self) -> str:
        """Which move or trajectory has the arm; empty where none does."""

    @property
    def trouble(self) -> Trouble | None:
        """The last thing that went wrong since the arm was activated."""

    def set_robot(self, setting: RobotSetting, values: Sequence[Any], parameters: Mapping[str, Any]) -> None:
        """Set something in the robot at rest, and parameters that say the same.

        :raises FrankaError, TimeoutError: it was not set.
        """


@dataclasses.dataclass(frozen=True)
class _Change:
    """What a request asks for, checked.

    :ivar values: what libfranka's command takes.
    :ivar parameters: the node's parameters that say the same.
    """

    setting: RobotSetting
    values: tuple[Any, ...]
    parameters: dict[str, Any] = dataclasses.field(default_factory=dict)


class RobotServices:
    """The servers of all these services.

    They exist in every state of the node, so that a request for an arm that is not there is answered with a reason.

    :param node: where to serve and log.
    :param owner: what the node knows of the arm.
    """

    def __init__(self, node: LifecycleNode, owner: Owner) -> None:
        self._node = node
        self._owner = owner
        #: Why the arm is not active for a moment, in words; empty where nobody restarts it.
        self.restarting = ""
        for name, (kind, parse) in SERVICES.items():
            for prefix in PREFIXES:
                self._serve(prefix, name, kind, parse)

    def _serve(self, prefix: str, name: str, kind: type, parse: Callable[[Any], _Change]) -> None:
        async def answer(request: Any, response: Any) -> Any:
            try:
                await self._carry_out(name, parse(request))
            except (FrankaError, TimeoutError) as error:
                self._node.get_logger().warning(f"refused {name}: {error}")
                response.success, response.error = False, str(error)
            else:
                self._node.get_logger().info(f"{name} was done")
                response.success = True
            return response

        self._node.create_service(kind, f"{prefix}{name}", answer)

    async def _carry_out(self, name: str, change: _Change) -> None:
        """Set something now, or between deactivating and activating the arm.

        :raises FrankaError, TimeoutError: that was not possible, and why.
        """
        while self.restarting:
            await self._owner.next_tick()
        if not self._owner.configured:
            raise CommandRefused("the node is not configured: configure it first")
        if self._owner.client is None:
            raise CommandRefused(f"there is no arm{self._owner.why_inactive}; activating the node connects again")
        if self._owner.active_client is None:
            self._set(change)
        elif self._owner.parameter("restart_if_needed"):
            self.restarting = f"the arm is restarted by {name}"
            try:
                await self._restart(change)
            finally:
                self.restarting = ""
        else:
            raise CommandRefused(
                "the robot takes this only while the arm is not active: deactivate the node first, or let it restart "
                f"the arm: ros2 param set {self._node.get_fully_qualified_name()} restart_if_needed true"
            )

    def _set(self, change: _Change) -> None:
        self._owner.set_robot(change.setting, change.values, change.parameters)

    async def _restart(self, change: _Change) -> None:
        """Stop the arm smoothly, set something, and activate the arm again where it is.

        :raises FrankaError, TimeoutError: the arm did not stop as it was asked to, and stays as it is; or the robot
            refused the change, and the arm is active again.
        """
        before = self._owner.trouble
        if self._node.trigger_deactivate() != TransitionCallbackReturn.SUCCESS:
            raise CommandRefused(f"the arm could not be stopped{self._owner.why_inactive}")
        # Whoever moved the arm learns that it is not active any more, and the node, if the robot stopped by itself.
        await self._owner.next_tick()
        while self._owner.moving:
            await self._owner.next_tick()
        trouble = self._owner.trouble
        if trouble is not None and trouble is not before:
            raise CommandRefused(f"the arm did not stop as it was asked to: {trouble.message}")
        if self._owner.client is None or self._owner.active_client is not None:
            raise CommandRefused("somebody else changed the node's state meanwhile")
        try:
            self._set(change)
        finally:
            if self._node.trigger_activate() != TransitionCallbackReturn.SUCCESS:
                raise CommandRefused(f"the arm could not be activated again{self._owner.why_inactive}")


# What requests ask for.


def _load(request: srv.SetLoad.Request) -> _Change:
    mass, center, inertia = (_parse(setting, getattr(request, setting.name)) for setting in _LOAD)
    tensor = inertia.reshape(3, 3)
    allowed = _INERTIA_ROUNDING * np.abs(tensor).max()
    if np.abs(tensor - tensor.T).max() > allowed:
        raise ConfigurationError(f"load_inertia is not symmetric: {inertia.tolist()}")
    smallest = np.linalg.eigvalsh(tensor)[0]
    if smallest < -allowed:
        raise ConfigurationError(f"load_inertia is negative about an axis: {smallest:g} kg m^2")
    return _Change(RobotSetting.LOAD, (mass, center, inertia))


def _tcp_frame(request: srv.SetTCPFrame.Request) -> _Change:
    return _Change(RobotSetting.END_EFFECTOR, (_rigid(request.transformation),))


def _stiffness_frame(request: srv.SetStiffnessFrame.Request) -> _Change:
    return _Change(RobotSetting.STIFFNESS_FRAME, (_rigid(request.transformation),))


def _joint_stiffness(request: srv.SetJointStiffness.Request) -> _Change:
    return _Change(RobotSetting.JOINT_STIFFNESS, (_parse(_JOINT_STIFFNESS, request.joint_stiffness),))


def _cartesian_stiffness(request: srv.SetCartesianStiffness.Request) -> _Change:
    return _Change(RobotSetting.CARTESIAN_STIFFNESS, (_parse(_CARTESIAN_STIFFNESS, request.cartesian_stiffness),))


def _collision_behavior(request: srv.SetForceTorqueCollisionBehavior.Request) -> _Change:
    values: list[Array] = []
    for kind, parameter in _THRESHOLDS.items():
        lower, upper = (
            _parse(dataclasses.replace(parameter, name=field), getattr(request, field))
            for field in (f"{side}_{kind}_thresholds_nominal" for side in ("lower", "upper"))
        )
        for index in np.flatnonzero(lower > upper):
            raise ConfigurationError(
                f"lower_{kind}_thresholds_nominal is {lower[index]:g} at index {index}, above the upper one, "
                f"{upper[index]:g}"
            )
        values += [lower, upper]
    uppers = {parameter.name: upper for parameter, upper in zip(_THRESHOLDS.values(), values[1::2], strict=True)}
    return _Change(RobotSetting.COLLISION_BEHAVIOR, tuple(values), uppers)


def _full_collision_behavior(request: srv.SetFullCollisionBehavior.Request) -> _Change:
    for kind in _THRESHOLDS:
        for side in ("lower", "upper"):
            field = f"{side}_{kind}_thresholds"
            if not np.array_equal(getattr(request, f"{field}_acceleration"), getattr(request, f"{field}_nominal")):
                raise ConfigurationError(
                    f"{field}_acceleration differs from {field}_nominal: libfranka's Python bindings know one "
                    "threshold for both"
                )
    return _collision_behavior(request)


def _parse(setting: Setting, value: Any) -> Any:
    """A field of a request as it is used.

    :raises ConfigurationError: it is not finite or out of its range.
    """
    return setting.parse(value.tolist() if setting.size else value)


def _rigid(values: Array) -> Array:
    """The nearest rigid transformation, as libfranka takes it (16,), columns first.

    :raises ConfigurationError: rounding does not explain the distance to it, or it is out of its range.
    """
    transformation = _parse(_TRANSFORMATION, values).reshape(4, 4).T
    if np.abs(transformation[3] - (0.0, 0.0, 0.0, 1.0)).max() > _ROUNDING:
        raise ConfigurationError(
            f"the last row of the transformation is {transformation[3].tolist()} instead of [0, 0, 0, 1]: its sixteen "
            "numbers are given column by column"
        )
    left, stretch, right = np.linalg.svd(transformation[:3, :3])
    rotation = left @ right
    if np.abs(stretch - 1.0).max() > _ROUNDING or np.linalg.det(rotation) < 0.0:
        raise ConfigurationError(
            f"the upper left of the transformation is not a rotation: {transformation[:3, :3].tolist()}"
        )
    rigid = np.eye(4)
    rigid[:3, :3], rigid[:3, 3] = rotation, transformation[:3, 3]
    return rigid.T.ravel()


#: Every service by its name: its type, and what its request asks for.
SERVICES: dict[str, tuple[type, Callable[[Any], _Change]]] = {
    "set_load": (srv.SetLoad, _load),
    "set_tcp_frame": (srv.SetTCPFrame, _tcp_frame),
    "set_stiffness_frame": (srv.SetStiffnessFrame, _stiffness_frame),
    "set_joint_stiffness": (srv.SetJointStiffness, _joint_stiffness),
    "set_cartesian_stiffness": (srv.SetCartesianStiffness, _cartesian_stiffness),
    "set_force_torque_collision_behavior": (srv.SetForceTorqueCollisionBehavior, _collision_behavior),
    "set_full_collision_behavior": (srv.SetFullCollisionBehavior, _full_collision_behavior),
}
