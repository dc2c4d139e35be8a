"""franka_ros2's services, which set something in the robot itself: its load, its frames, its collision thresholds.

Used by the node, in its process and its one thread. Requests are checked here, completely; if a request is wrong or
comes at the wrong time, the answer's ``error`` says why.

The robot accepts such settings only while no motion runs. If the arm is active, a service refuses; with
``restart_if_needed``, it stops the arm smoothly, changes the setting, and activates the arm again at its present
position. That takes several ticks of the node, in which the client that moved the arm learns why its motion ended;
therefore services are coroutines.

A setting lasts until the robot forgets it or Desk changes it. ``configure`` sets only the collision thresholds again,
which are parameters, too: a service changes the parameter with the robot's setting.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from franka_msgs import srv
from rclpy.lifecycle import TransitionCallbackReturn

from aiofranka_ros.arm.setting_table import SETTINGS
from aiofranka_ros.control.robot_records import RobotSetting
from aiofranka_ros.control.setting import Setting
from aiofranka_ros.errors import CommandRefused, ConfigurationError, FrankaError
from aiofranka_ros.kernels import Array
from aiofranka_ros.ros.conditions import CTL

if TYPE_CHECKING:
    from aiofranka_ros.node.lifecycle import FrankaNode

#: Prefixes of the services' names: this node's, and that of franka_ros2.
PREFIXES = ("~/", "service_server/")
#: Largest deviation of a transformation from a rigid one that counts as rounding and is corrected.
_ROUNDING = 1e-3
#: Largest deviation of an inertia from a symmetric, positive semidefinite one, relative to its largest element.
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
#: The parameters with the external torques and forces at which the robot stops, by the kind of threshold.
_THRESHOLDS = {
    kind: next(setting for setting in SETTINGS if setting.name == f"collision_{kind}_thresholds")
    for kind in ("torque", "force")
}


class _Change(NamedTuple):
    """A checked request: the arguments of libfranka's command, and the node's parameters that describe the same."""

    setting: RobotSetting
    values: tuple[Any, ...]
    parameters: Mapping[str, Any] = MappingProxyType({})


class RobotServices:
    """The servers of all these services.

    They exist in every state of the node, so that a request is answered with a reason if there is no arm.
    """

    def __init__(self, node: FrankaNode) -> None:
        self._node = node
        #: Why the arm is inactive for a moment, in words; empty if no service is restarting it.
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
                self._node.get_logger().info(f"{name} succeeded")
                response.success = True
            return response

        self._node.create_service(kind, f"{prefix}{name}", answer)

    async def _carry_out(self, name: str, change: _Change) -> None:
        """Make a change now, or between deactivating and activating the arm.

        :raises FrankaError, TimeoutError: it was not made.
        """
        while self.restarting:
            await self._node.next_tick()
        if not self._node.configured:
            raise CommandRefused("the node is not configured: configure it first")
        if self._node.client is None:
            raise CommandRefused(
                f"the arm is not connected{self._node.why_inactive}; activate the node to connect again"
            )
        if self._node.active_client is None:
            self._node.set_robot(*change)
        elif self._node.parameter("restart_if_needed"):
            self.restarting = f"{name} is restarting the arm"
            try:
                await self._restart(change)
            finally:
                self.restarting = ""
        else:
            raise CommandRefused(
                "the robot accepts this only while the arm is not active: deactivate the node first, or allow it to "
                f"restart the arm: {CTL} set restart_if_needed true --node {self._node.get_fully_qualified_name()}"
            )

    async def _restart(self, change: _Change) -> None:
        """Stop the arm smoothly, make a change, and activate the arm again where it is.

        :raises FrankaError, TimeoutError: the arm did not stop as requested, and nothing was changed; or the robot
            refused the change, and the arm is active again.
        """
        before = self._node.trouble
        if self._node.trigger_deactivate() != TransitionCallbackReturn.SUCCESS:
            raise CommandRefused(f"the arm could not be stopped{self._node.why_inactive}")
        # The client that moved the arm learns that it is inactive, and the node, whether the robot stopped by itself.
        await self._node.next_tick()
        while self._node.moving:
            await self._node.next_tick()
        trouble = self._node.trouble
        if trouble is not None and trouble is not before:
            raise CommandRefused(f"the arm did not stop as requested: {trouble.message}")
        if self._node.client is None or self._node.active_client is not None:
            raise CommandRefused("another client has changed the state of the node")
        refused: Exception | None = None
        try:
            self._node.set_robot(*change)
        except Exception as error:
            refused = error
        if self._node.trigger_activate() != TransitionCallbackReturn.SUCCESS:
            also = f"the arm could not be activated again{self._node.why_inactive}"
            raise CommandRefused(f"{refused}; {also}" if refused else also) from refused
        if refused is not None:
            raise refused


# From requests to changes.


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


def _transformation(setting: RobotSetting) -> Callable[[Any], _Change]:
    return lambda request: _Change(setting, (_rigid(request.transformation),))


def _stiffness(setting: RobotSetting, field: Setting) -> Callable[[Any], _Change]:
    return lambda request: _Change(setting, (_parse(field, getattr(request, field.name)),))


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
                    f"{field}_acceleration differs from {field}_nominal: libfranka's Python bindings have one "
                    "threshold for both"
                )
    return _collision_behavior(request)


def _parse(setting: Setting, value: Any) -> Any:
    """The value of a field of a request.

    :raises ConfigurationError: it is not finite or out of its range.
    """
    return setting.parse(value.tolist() if setting.size else value)


def _rigid(values: Array) -> Array:
    """The nearest rigid transformation, in libfranka's form (16,), columns first.

    :raises ConfigurationError: the difference is more than rounding, or it is out of its range.
    """
    transformation = _parse(_TRANSFORMATION, values).reshape(4, 4).T
    if np.abs(transformation[3] - (0.0, 0.0, 0.0, 1.0)).max() > _ROUNDING:
        raise ConfigurationError(
            f"the last row of the transformation is {transformation[3].tolist()} instead of [0, 0, 0, 1]; its sixteen "
            "numbers must be given column by column"
        )
    left, stretch, right = np.linalg.svd(transformation[:3, :3])
    rotation = left @ right
    if np.abs(stretch - 1.0).max() > _ROUNDING or np.linalg.det(rotation) < 0.0:
        raise ConfigurationError(
            f"the upper left part of the transformation is not a rotation: {transformation[:3, :3].tolist()}"
        )
    rigid = np.eye(4)
    rigid[:3, :3], rigid[:3, 3] = rotation, transformation[:3, 3]
    return rigid.T.ravel()


#: Every service by its name: its type, and how its request becomes a change.
SERVICES: dict[str, tuple[type, Callable[[Any], _Change]]] = {
    "set_load": (srv.SetLoad, _load),
    "set_tcp_frame": (srv.SetTCPFrame, _transformation(RobotSetting.END_EFFECTOR)),
    "set_stiffness_frame": (srv.SetStiffnessFrame, _transformation(RobotSetting.STIFFNESS_FRAME)),
    "set_joint_stiffness": (srv.SetJointStiffness, _stiffness(RobotSetting.JOINT_STIFFNESS, _JOINT_STIFFNESS)),
    "set_cartesian_stiffness": (
        srv.SetCartesianStiffness, _stiffness(RobotSetting.CARTESIAN_STIFFNESS, _CARTESIAN_STIFFNESS),
    ),
    "set_force_torque_collision_behavior": (srv.SetForceTorqueCollisionBehavior, _collision_behavior),
    "set_full_collision_behavior": (srv.SetFullCollisionBehavior, _full_collision_behavior),
}  # fmt: skip
