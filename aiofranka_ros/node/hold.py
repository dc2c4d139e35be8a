"""Taking the arm from everyone: the services ``~/hold`` and ``~/release``, and an arm that was pushed too hard.

Used by the node, in its process and its one thread. While the arm is held, the control process follows nobody: what
runs slows down on its path and ends, targets come to rest, and the law of the mode holds. Targets and goals are refused
with the reason. It stays so, over a deactivation and a lost arm too, until somebody calls ``~/release``.
"""

from __future__ import annotations

from collections.abc import Callable

from rclpy.lifecycle import LifecycleNode
from std_srvs.srv import Trigger

from aiofranka_ros.arm.moves import Mover
from aiofranka_ros.control.client import ControlClient
from aiofranka_ros.control.records import Hold
from aiofranka_ros.kernels import Record

#: Who has an arm that is held, for the diagnostics.
HOLDER = "~/hold"


class HoldServices:
    """The servers of ``~/hold`` and ``~/release``.

    :param node: where to serve and log.
    :param mover: what moves the arm; it is interrupted.
    :param client: the control process, ``None`` where there is none.
    """

    def __init__(self, node: LifecycleNode, mover: Mover, client: Callable[[], ControlClient | None]) -> None:
        self._node = node
        self._mover = mover
        self._client = client
        self._cause = ""
        node.create_service(Trigger, "~/hold", self._on_hold)
        node.create_service(Trigger, "~/release", self._on_release)

    @property
    def reason(self) -> str:
        """Why the arm is held, in a sentence; empty where it isn't."""
        return f"the arm is held: {self._cause}; ~/release gives it back" if self._cause else ""

    def apply(self) -> None:
        """Let the control process know, a new one too."""
        client = self._client()
        if client is not None:
            client.hold(bool(self._cause))

    def follow(self, state: Record) -> None:
        """Hold an arm that holds by itself because it was pushed; called with every ``state`` of an active arm."""
        if self._cause or not int(state["hold"]) & Hold.PUSHED:
            return
        client = self._client()
        # A state of before the last release says nothing any more.
        if client is not None and state["release_id"] == client.release_id:
            self._take("an external force or torque exceeded max_external_force or max_external_torque")
            self._node.get_logger().error(self.reason)

    def _on_hold(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        owner = self._mover.owner
        self._take("somebody called ~/hold")
        response.success = True
        response.message = f"held; taken from {owner}" if owner else "held"
        self._node.get_logger().info(response.message)
        return response

    def _on_release(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        response.success = True
        response.message = "released" if self._cause else "it was not held"
        self._cause = ""
        client = self._client()
        if client is not None:
            client.release()
        self._node.get_logger().info(response.message)
        return response

    def _take(self, cause: str) -> None:
        self._cause = cause
        self.apply()
        self._mover.interrupt(self.reason)
