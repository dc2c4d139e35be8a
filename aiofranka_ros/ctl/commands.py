"""What ``ctl`` can do with a node: one function for each command, which returns what to print.

Called by :mod:`aiofranka_ros.ctl.__main__`, in its one thread. Each function waits until the node has done what it was
asked for, and raises :class:`.Failed` with the node's own reason if it did not.
"""

from __future__ import annotations

import array
import os
from collections.abc import Sequence
from typing import Any

import yaml
from action_msgs.msg import GoalStatus
from diagnostic_msgs.msg import DiagnosticStatus
from franka_msgs.action import ErrorRecovery, PTPMotion

from aiofranka_ros.ctl.client import Failed, NodeClient
from aiofranka_ros.errors import unknown
from aiofranka_ros.ros.clients import Presence
from aiofranka_ros.ros.refusals import QOS, TOPIC, RefusalReader

#: The state that each transition begins in, and the one it leads to.
TRANSITIONS = {
    "configure": ("unconfigured", "inactive"),
    "activate": ("inactive", "active"),
    "deactivate": ("active", "inactive"),
    "cleanup": ("inactive", "unconfigured"),
}
#: The way from one state to another.
_STEPS = {
    ("unconfigured", "inactive"): "configure",
    ("unconfigured", "active"): "configure",
    ("active", "inactive"): "deactivate",
}
#: How long a node may take to appear on the graph, and to publish its diagnostics once it is there [s].
_DISCOVERY, _DIAGNOSTICS = 10.0, 3.0
#: How long a running motion may take to end, its cancellation included [s].
_LONGEST_MOVE, _LONGEST_STOP = 600.0, 10.0


def discover(client: NodeClient) -> None:
    """Wait until the node is on the graph.

    :raises Failed: it is not; the message lists the nodes that are.
    """
    if not client.exists(_DISCOVERY):
        others = ", ".join(client.others()) or "none"
        domain = os.environ.get("ROS_DOMAIN_ID", "0")
        raise Failed(
            f"there is no node {client.name}. Nodes in ROS domain {domain}: {others}. Choose one with --node, or set "
            "ROS_DOMAIN_ID as in the node's terminal"
        )


def change(client: NodeClient, transition: str) -> str:
    """Make a transition; does nothing if the node is already where it leads to."""
    begin, end = TRANSITIONS[transition]
    if not client.has_lifecycle():
        raise Failed(f"{client.name} is not a lifecycle node: it cannot {transition}")
    state = client.state
    if state == end:
        return f"{client.name} is already {end}"
    if state != begin:
        step = _STEPS.get((state, begin))
        raise Failed(f"{client.name} is {state}, but must be {begin}" + (f": {step} it first" if step else ""))
    if not client.change(transition):
        raise Failed(f"{client.name} could not {transition}: {_trouble(client)}")
    return f"{client.name} is {end}"


def hold(client: NodeClient) -> str:
    """Take control from every client; the arm stops and holds."""
    return _trigger(client, "hold")


def release(client: NodeClient) -> str:
    """Give control back to clients."""
    return _trigger(client, "release")


def _trigger(client: NodeClient, service: str) -> str:
    answer = client.trigger(service)
    if not answer.success:
        raise Failed(f"{client.name} did not {service}: {answer.message}")
    return f"{client.name}: {answer.message}"


def set_parameters(client: NodeClient, values: dict[str, Any]) -> str:
    """Set parameters together, all or none."""
    refusal = client.set(**values)
    if refusal:
        raise Failed(f"{client.name} refused it: {refusal}")
    return "\n".join(f"{name}: {shown(value)}" for name, value in values.items())


def get_parameters(client: NodeClient, names: Sequence[str]) -> dict[str, Any]:
    """The values of the parameters called ``names``, or of all."""
    known = client.parameter_names()
    for name in names:
        if name not in known:
            raise Failed(unknown(f"parameter of {client.name}", name, known))
    return client.get_all(names or known)


def recover(client: NodeClient) -> str:
    """Clear a reflex and activate the arm where it is."""
    handle = _send(client, ErrorRecovery, "error_recovery", ErrorRecovery.Goal())
    if client.outcome(handle).status != GoalStatus.STATUS_SUCCEEDED:
        raise Failed(f"{client.name} could not recover: {_trouble(client)}")
    return f"{client.name} is active and holds"


def move(client: NodeClient, q: Sequence[float], velocity: float | None) -> str:
    """Move to joint positions, and wait until the arm has arrived. If interrupted, the arm stops first.

    :param q: goal [rad] (7,).
    :param velocity: largest velocity of every joint [rad/s]; ``None``: that of the node.
    """
    goal = PTPMotion.Goal(
        goal_joint_configuration=[float(value) for value in q],
        maximum_joint_velocities=[] if velocity is None else [velocity] * 7,
    )
    handle = _send(client, PTPMotion, "move", goal)
    try:
        outcome = client.outcome(handle, _LONGEST_MOVE)
    except BaseException:
        client.cancel(handle)
        client.outcome(handle, _LONGEST_STOP)
        raise
    if outcome.status != GoalStatus.STATUS_SUCCEEDED:
        raise Failed(f"the move did not arrive: {outcome.result.error_message or 'the node gave no reason'}")
    return "arrived"


def _send(client: NodeClient, kind: Any, name: str, goal: Any) -> Any:
    """The handle of a goal that the node has accepted; it ends with this process."""
    action = client.action(kind, f"{client.name}/{name}")
    client.wait(action.server_is_ready, f"{client.name} has no action {name}", _DISCOVERY)
    presence, refusals = Presence(client.node, client.name), RefusalReader()
    client.node.create_subscription(DiagnosticStatus, f"{client.name}/{TOPIC}", refusals.receive, QOS)
    goal_id = presence.goal_id()
    handle = client.result(action.send_goal_async(goal, goal_uuid=goal_id), f"no answer from {name}")
    if not handle.accepted:
        number = bytes(goal_id.uuid)
        client.spin_until(lambda: refusals.why(number), _DIAGNOSTICS)
        raise Failed(f"{client.name} refused it: {refusals.why(number) or 'its log says why'}")
    return handle


def status(client: NodeClient) -> dict[str, Any]:
    """The node's state and everything that it reports about itself on ``/diagnostics``."""
    state = client.state if client.has_lifecycle(_DIAGNOSTICS) else None
    expected = ("robot", "control loop", "targets") if state else ()
    client.spin_until(lambda: client.statuses and all(name in client.statuses for name in expected), _DIAGNOSTICS)
    return {
        "node": client.name,
        "state": state,
        "mode": client.value("control loop", "mode") or None,
        "owner": client.value("targets", "owner") or None,
        "diagnostics": {
            name: {
                "level": LEVELS[said.level],
                "message": said.message,
                "values": {item.key: item.value for item in said.values},
            }
            for name, said in client.statuses.items()
        },
    }


#: Levels of diagnostics, in words.
LEVELS = {
    DiagnosticStatus.OK: "OK",
    DiagnosticStatus.WARN: "WARN",
    DiagnosticStatus.ERROR: "ERROR",
    DiagnosticStatus.STALE: "STALE",
}


def _trouble(client: NodeClient) -> str:
    """What the node now reports as wrong with its robot, and what to do about it."""

    def reported() -> bool:
        return "robot" in client.statuses and client.statuses["robot"].level != DiagnosticStatus.OK

    client.forget()  # An earlier trouble is not the reason.
    if not client.spin_until(reported, _DIAGNOSTICS):
        return "its log says why"
    remedy = client.value("robot", "what to do")
    return client.statuses["robot"].message + (f" ({remedy})" if remedy else "")


def parsed(text: str) -> Any:
    """A value as it is written in a parameter file: ``0.3``, ``true``, ``osc``, ``[1, 2]``.

    :raises ValueError: it is not the value of a parameter.
    """
    try:
        value = yaml.safe_load(text) if text else ""
    except yaml.YAMLError as error:
        raise ValueError(f"{text!r} is not a value: {error}") from error
    if isinstance(value, list):
        if any(isinstance(element, (int, float)) and not isinstance(element, bool) for element in value):
            value = [float(element) if isinstance(element, int) else element for element in value]
        if len({type(element) for element in value}) > 1 or any(isinstance(each, (list, dict)) for each in value):
            raise ValueError(f"{text!r} is not a list of values of one type")
    elif not isinstance(value, (bool, int, float, str)):
        raise ValueError(f"{text!r} is not a value: give a number, true, false, a text, or a list of them")
    return value


def shown(value: Any) -> str:
    """A value as :func:`parsed` reads it."""
    value = value.tolist() if isinstance(value, array.array) else value
    return yaml.safe_dump(value, default_flow_style=True, width=float("inf")).removesuffix("...\n").strip()
