"""The simulated FR3 itself: its MuJoCo model, its physics and its side of the robot's network protocol.

``franka_sim`` has the protocol, the reflexes and a URDF, but it downloads the model that it steps, measures poses at
another flange than libfranka's model does, and listens on every interface. This module changes the least that makes it
a faithful FR3 at one loopback address, without a network.

Called only by :mod:`aiofranka_ros.simulation.__main__`, in the simulator's process. While the arm has no client, the
physics runs on the main thread; the protocol, and with it the physics of an arm that has a client, runs on the threads
that ``franka_sim`` starts. Importing this module imports MuJoCo, so nothing else imports it.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import socket
import struct
import threading
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator
from typing import Any

import mujoco
import numpy as np
from franka_sim.control_modes import ControlMode
from franka_sim.franka_protocol import Command, ConnectStatus
from franka_sim.franka_sim_server import FrankaSimServer
from franka_sim.gripper.protocol import GRIPPER_COMMAND_PORT
from franka_sim.mujoco_franka_sim import (
    ARM_POSITION_KP,
    SELF_COLLISION_MARGIN,
    SELF_COLLISION_MIN_LINK_SEPARATION,
    MujocoFrankaSim,
)
from franka_sim.sim_common import FR3_FORCE_LIMITS, RealtimeFactorMonitor

from aiofranka_ros.errors import SimulationError
from aiofranka_ros.simulation.hand import HandServer, SimulatedHand

logger = logging.getLogger(__name__)

#: Beginning of the name of every body and joint in the model, as in franka_description.
PREFIX = "fr3_"

# Dynamics of joints 1 to 7, identified by MuJoCo Menagerie for this arm (franka_fr3/fr3.xml). With the numbers of the
# URDF (damping 0.003, friction 0.2, no armature) the arm is so light that ordinary torque control is unstable.
JOINT_DAMPING = (0.21,) * 7  # [Nm s/rad]
JOINT_ARMATURE = (0.195,) * 4 + (0.074,) * 3  # [kg m²], the rotors' inertia seen at the joint
JOINT_FRICTION_LOSS = (1.137,) * 4 + (0.763, 0.44, 0.248)  # [Nm]

# Damping with which the arm holds while no client controls it. The value in franka_sim is for another model: with the
# wrist's inertia here, joint 7 would jump back and forth at every step.
HOLD_DAMPING = np.array((450.0, 450.0, 350.0, 350.0, 40.0, 40.0, 40.0))  # [Nm s/rad]

#: How often the window is drawn, and how soon the clock steps the physics again after a client has gone [s].
RENDER_PERIOD = 1.0 / 30.0

#: Flange to the Franka Hand's fingertips (4, 4) [m], -45 degrees about z: what Desk sets for the hand.
HAND_F_T_NE = np.eye(4)
HAND_F_T_NE[:2, :2] = np.sqrt(0.5) * np.array([[1.0, 1.0], [-1.0, 1.0]])
HAND_F_T_NE[2, 3] = 0.1034

# The coarse volumes of the robot's own self-collision check, without their safety distance of 0.03 m
# (franka_description, robots/common/franka_arm.xacro, `self_collision_geometries`): franka_sim has a margin of 0.05 m
# between two volumes. Index of the link, centres of the two half spheres of a capsule in the link's frame (6 numbers),
# and its radius [m].
_DIAGONAL = np.sqrt(0.5)  # link 7's volumes are turned by 45 degrees about z
_CAPSULES = (
    (0, (-0.09, 0.0, 0.06, -0.06, 0.0, 0.06), 0.06),
    (1, (0.0, 0.0, -0.333, 0.0, 0.0, -0.05), 0.06),
    (2, (0.0, 0.0, -0.06, 0.0, 0.0, 0.06), 0.06),
    (3, (0.0, 0.0, -0.22, 0.0, 0.0, -0.07), 0.06),
    (4, (0.0, 0.0, -0.06, 0.0, 0.0, 0.06), 0.06),
    (5, (0.0, 0.0, -0.31, 0.0, 0.0, -0.21), 0.06),
    (5, (0.0, 0.08, -0.2, 0.0, 0.08, -0.06), 0.025),
    (6, (0.0, 0.0, -0.07, 0.0, 0.0, 0.01), 0.05),
    (7, (0.0, 0.0, -0.06, 0.0, 0.0, 0.08), 0.04),
    (7, (0.055 * _DIAGONAL, 0.055 * _DIAGONAL, 0.082, 0.065 * _DIAGONAL, 0.065 * _DIAGONAL, 0.082), 0.03),
)


def fr3_mjcf() -> str:
    """The arm as an MJCF document that needs no other file.

    Kinematics, inertias and limits come from the URDF that the server sends to libfranka, so that both sides compute
    with the same arm; joint dynamics and volumes are the constants above. ``franka_sim`` adds gravity compensation, the
    time step and the ground when it loads the document.
    """
    spec = mujoco.MjSpec.from_string(_bare_urdf())
    spec.option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST  # As in Menagerie.
    for named in (*spec.bodies[1:], *spec.joints):
        named.name = PREFIX + named.name
    for joint, damping, armature, friction_loss in zip(
        spec.joints, JOINT_DAMPING, JOINT_ARMATURE, JOINT_FRICTION_LOSS, strict=True
    ):
        joint.damping, joint.armature, joint.frictionloss = damping, armature, friction_loss
    bodies = {body.name: body for body in spec.bodies}
    for link, ends, radius in _CAPSULES:
        geom = bodies[f"{PREFIX}link{link}"].add_geom()
        geom.type = mujoco.mjtGeom.mjGEOM_CAPSULE
        geom.fromto = ends
        geom.size[0] = radius
        geom.mass = 0.0
        geom.rgba = (0.92, 0.92, 0.92, 1.0) if link % 2 else (0.65, 0.68, 0.72, 1.0)
    # The volumes of links one or two joints apart overlap or nearly touch by design: joint limits keep those links
    # apart, not contacts. MuJoCo excludes parent and child by itself, except below the base.
    neighbours = [(f"{PREFIX}link{first}", f"{PREFIX}link{first + 2}") for first in range(6)]
    # The shoulder's volume extends through the base into the ground that franka_sim adds.
    for first_body, second_body in (*neighbours, ("world", f"{PREFIX}link1")):
        exclude = spec.add_exclude()
        exclude.bodyname1, exclude.bodyname2 = first_body, second_body
    spec.compile()  # Only a compiled model can be written.
    document: str = spec.to_xml()
    return document


def _bare_urdf() -> str:
    """The URDF of ``franka_sim`` without meshes and sensor links."""
    root = ElementTree.parse(FrankaSimServer.DEFAULT_ARM_URDF).getroot()
    kept = {"base", *(f"link{index}" for index in range(9))}  # The last one is the flange.
    for link in root.findall("link"):
        if link.attrib["name"] not in kept:
            root.remove(link)
            continue
        for tag in ("visual", "collision"):
            for element in link.findall(tag):
                link.remove(element)
    for joint in root.findall("joint"):
        child = joint.find("child")
        assert child is not None  # The URDF schema requires it.
        if child.attrib["link"] not in kept:
            root.remove(joint)
    # MuJoCo merges links without a joint into their parent unless told not to: the flange would disappear.
    ElementTree.SubElement(ElementTree.SubElement(root, "mujoco"), "compiler", fusestatic="false")
    return ElementTree.tostring(root, encoding="unicode")


class ArmPhysics(MujocoFrankaSim):
    """The physics of one FR3, stepped by the clock on the thread that calls :meth:`start`, or by a client's states.

    It reports what ``franka_sim`` models: ``tau_J`` is the commanded torque, ``tau_ext_hat_filtered`` and the
    estimated wrenches are zeros, although contacts do act on the arm.
    """

    running: bool

    def __init__(
        self,
        *,
        viewer: bool = False,
        on_ready: Callable[[], None] | None = None,
        ended: Callable[[], bool] = lambda: False,
    ) -> None:
        """Show MuJoCo's window if ``viewer``; call ``on_ready`` on the physics thread, just before the first step.

        :param ended: whether to stop, asked after each step.
        """
        super().__init__(enable_vis=viewer)
        self._on_ready, self._ended = on_ready, ended
        #: Protects everything that belongs to MuJoCo.
        self._stepping = threading.Lock()
        #: The thread whose states step the physics; None: the clock does.
        self._driver: int | None = None
        self._states_sent: Callable[[], int] = int
        self._stepped_at = -1
        self._monitor: RealtimeFactorMonitor | None = None

    def initialize_simulation(self) -> None:
        """Build the model and let the arm settle at ``franka_sim``'s initial pose."""
        # Left alone, MuJoCo writes its warnings into a file in the working directory.
        mujoco.set_mju_user_warning(lambda text: logger.warning("MuJoCo: %s", text))
        # franka_sim loads its model from a path. This file exists only in memory, so that none can be left behind.
        descriptor = os.memfd_create("fr3.xml")
        try:
            with open(descriptor, "w", closefd=False) as file:
                file.write(fr3_mjcf())
            self.model_path = f"/proc/self/fd/{descriptor}"
            super().initialize_simulation()
        finally:
            os.close(descriptor)

    def run_simulation(self) -> None:
        """Step once a millisecond until stopped, except while the states for a client do it; see :meth:`driven`."""
        if self._on_ready is not None:
            self._on_ready()
        due = render = time.perf_counter()
        self._monitor = RealtimeFactorMonitor(logger, due)
        while self.running and not self._ended():
            due += self.dt if self._step(None) else RENDER_PERIOD
            viewer = self.viewer  # On another thread, stop() sets it to None.
            if viewer is not None and time.perf_counter() >= render:
                render = time.perf_counter() + RENDER_PERIOD
                if not viewer.is_running():
                    break
                with self._stepping:
                    viewer.sync()
            # Late steps are not made up for: the arm is late, it does not jump.
            now = time.perf_counter()
            due = max(due, now)
            time.sleep(due - now)

    @contextlib.contextmanager
    def driven(self, states_sent: Callable[[], int]) -> Iterator[None]:
        """Within this context, the calling thread steps the physics, once for each state; ``states_sent`` counts them.

        The robot is one loop: each state that it sends is a millisecond of its motion. ``franka_sim`` has two loops,
        which diverge on a computer that is too slow for both: the arm then moves further from one state to the next
        than its own clock says, and no controller can hold it.
        """
        with self._stepping:
            self._driver, self._states_sent, self._stepped_at = threading.get_ident(), states_sent, -1
        try:
            yield
        finally:
            with self._stepping:
                if self._driver == threading.get_ident():  # Else the next client has connected already.
                    self._driver = None

    def get_robot_state(self) -> dict[str, Any]:
        """The newest state; see :meth:`driven`."""
        caller = threading.get_ident()
        if self._driver == caller and self._stepped_at != (sent := self._states_sent()):
            self._stepped_at = sent
            self._step(caller)
        state: dict[str, Any] = super().get_robot_state()
        return state

    def _step(self, driver: int | None) -> bool:
        """Step if the physics is driven by ``driver``, where ``None`` is the clock; returns whether it is."""
        with self._stepping:
            if self._driver != driver:
                return False
            self.step()
        if self._monitor is not None:
            self._monitor.update(time.perf_counter(), self.dt)
        return True

    def arm_control_torque(self) -> np.ndarray:
        """Torques of this step [Nm] (7,): those of the client, or holding torques if no client controls the arm."""
        if self.control_mode != ControlMode.POSITION:
            torque: np.ndarray = super().arm_control_torque()
            return torque
        error = self.latest_joint_positions - self.data.qpos[self.arm_qpos_adr]
        hold = ARM_POSITION_KP * error - HOLD_DAMPING * self.data.qvel[self.arm_dofs_idx]
        return np.clip(hold, -FR3_FORCE_LIMITS, FR3_FORCE_LIMITS)

    def _bind_model(self) -> None:
        super()._bind_model()
        # franka_sim measures the end effector from link 7; the robot, and libfranka's model, from the flange.
        self.ee_body_id = self.model.body(f"{PREFIX}link8").id

    def _bind_self_collision(self) -> None:
        # franka_sim knows one volume per link; links 5 and 7 have two.
        body_of = {geom: self.model.body(body).name for geom, body in enumerate(self.model.geom_bodyid)}
        links = {geom: int(body[len(f"{PREFIX}link")]) for geom, body in body_of.items() if body.startswith(PREFIX)}
        # A gap as wide as the margin reports the approach without making it a contact force.
        self.model.geom_margin[list(links)] = self.model.geom_gap[list(links)] = SELF_COLLISION_MARGIN
        self._self_collision_pairs = {
            (one, other): (f"link{links[one]}", f"link{links[other]}")
            for one, other in itertools.combinations(links, 2)  # MuJoCo numbers volumes in the order of the links.
            if links[other] - links[one] >= SELF_COLLISION_MIN_LINK_SEPARATION
        }


class ArmServer(FrankaSimServer):
    """One FR3 and its gripper on the network, at one address only.

    Communication constraints and motion limits are always enforced, as by the robot.
    """

    def __init__(
        self, host: str, physics: ArmPhysics, hand: bool, object_width: float | None, protocol_version: int | None
    ) -> None:
        """Serve ``physics``, which has not been started, at the loopback address ``host``.

        :param hand: report the Franka Hand's fingertips as nominal end effector, instead of the flange.
        :param object_width: width of an object between the gripper's fingers [m]; ``None``: no object.
        :param protocol_version: FCI protocol version to claim; ``None``: the version that it speaks.
        """
        self._hand = hand  # First, because the constructor of the base class may ask for the end effector.
        self._client_version: int | None = None
        self._accepting = threading.Event()
        super().__init__(host=host, physics_sim=physics, enforce_comm_constraints=True, enforce_motion_limits=True)
        self.gripper_server = HandServer(host, SimulatedHand(object_width))
        if protocol_version is not None:
            self.library_version = protocol_version

    def claim(self) -> None:
        """Bind the address, before anything slow happens. Clients that connect from now on wait to be served.

        :raises SimulationError: the address is not one of this machine, or another process listens there.
        """
        try:
            listener = socket.create_server((self.host, self.port), backlog=1)
            listener.settimeout(1.0)  # As in franka_sim, whose accept loop checks that often whether to end.
            self.server_socket = listener
            # franka_sim binds the gripper's port later. The holder of the arm's port owns the address, so one check is
            # enough.
            socket.create_server((self.host, GRIPPER_COMMAND_PORT)).close()
        except OSError as error:
            raise SimulationError(
                f"cannot serve a simulated arm at {self.host}, ports {self.port} and {GRIPPER_COMMAND_PORT}: "
                f"{os.strerror(error.errno or 0)}. If another simulated arm is running there, stop it, "
                "or choose another address with --host, e.g. 127.0.0.2."
            ) from error

    def _bind_listener(self) -> None:
        """Do nothing: :meth:`claim` has bound it."""

    def start_gripper_server(self) -> None:
        """Start the gripper and wait until it accepts clients, so that "ready" holds for both ports."""
        super().start_gripper_server()
        deadline = time.monotonic() + 5.0
        while not self.gripper_server.running:
            if not self.gripper_thread.is_alive() or time.monotonic() > deadline:
                raise SimulationError(f"the gripper cannot be served at {self.host}:{GRIPPER_COMMAND_PORT}")
            time.sleep(0.001)

    def wait_until_accepting(self) -> None:
        """Wait until clients of the arm are served, too; :meth:`stop` before that may miss a thread that is starting.

        :raises SimulationError: that took longer than 5 s.
        """
        if not self._accepting.wait(5.0):
            raise SimulationError(f"the arm cannot be served at {self.host}:{self.port}")

    def reset_state(self) -> None:
        """Forget the last client; called by ``franka_sim`` before it waits for the next one."""
        super().reset_state()
        self._accepting.set()

    def _stop_gripper(self) -> None:
        listener = self.gripper_server.server_socket
        if listener is not None:
            # Closing alone does not wake its thread, which would take up to a second to notice.
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
        super()._stop_gripper()

    def _preempt_running_motion(self) -> bool:
        # The robot reports the errors of the last motion only, not those of earlier motions.
        self.robot_state.state["reflex_reason"] = [False] * len(self.robot_state.state["reflex_reason"])
        preempted: bool = super()._preempt_running_motion()
        return preempted

    def start_robot_state_transmission(self, client_address: str, client_udp_port: int) -> None:
        """Send states until the client has gone, each a step of the physics."""
        with self.physics_sim.driven(lambda: self.states_sent):
            super().start_robot_state_transmission(client_address, client_udp_port)

    def start_command_receiver(self) -> None:
        """Receive commands at this address only; unbound, the socket would listen on every interface."""
        self.udp_socket.bind((self.host, 0))
        super().start_command_receiver()

    def receive_message(self, client_socket: socket.socket) -> Any:
        """Read one message, and remember the protocol version of a client that connects."""
        header, payload = super().receive_message(client_socket)
        if header.command == Command.kConnect and payload and len(payload) >= 2:
            (self._client_version,) = struct.unpack_from("<H", payload)
        return header, payload

    def send_response(self, client_socket: socket.socket, **fields: Any) -> None:
        """Answer a client that connects; unlike ``franka_sim``, refuse another protocol version, as the robot does."""
        if self._client_version != self.library_version:
            fields["status"] = ConnectStatus.kIncompatibleLibraryVersion
        super().send_response(client_socket, **fields)

    def _refresh_ee_transform(self) -> None:
        if self._hand:
            self.robot_state.state["F_T_NE"] = HAND_F_T_NE.T.ravel().tolist()  # Column-major on the wire.
        super()._refresh_ee_transform()
