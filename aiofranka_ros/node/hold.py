"""Taking control from every client: the services ``~/hold`` and ``~/release``, and an arm that was pushed too hard.

Used by the node, in its process and its one thread. While the arm is held, the control process follows no client: a
running motion slows down on its path and ends, a stream of targets stops, and the law of the mode holds the arm.
Targets and goals are refused with the reason. The hold lasts until a client calls ``~/release``, also if the arm is
deactivated or lost.
"""

from __future__ import annotations

from rclpy.lifecycle import LifecycleNode
from std_srvs.srv import Trigger

from aiofranka_ros.arm.driver import Driver
from aiofranka_ros.arm.moves import Mover
from aiofranka_ros.control.records import Hold
from aiofranka_ros.kernels import Record
from aiofranka_ros.ros.conditions import CTL

#: What controls an arm that is held, for the diagnostics.
HOLDER = "~/hold"


class HoldServices:
    """The servers of ``~/hold`` and ``~/release``."""

    def __init__(self, node: LifecycleNode, driver: Driver, mover: Mover) -> None:
        self._node = node
        self._driver = driver
        self._mover = mover
        self._name = node.get_fully_qualified_name()
        self._cause = ""
        #: Why the arm must hold while this lasts, whatever clients want; empty: nothing. Set by :meth:`hold_while`.
        self._condition = ""
        node.create_service(Trigger, "~/hold", self._on_hold)
        node.create_service(Trigger, "~/release", self._on_release)

    @property
    def reason(self) -> str:
        """Why the arm is held, as a sentence; empty if it is not."""
        if self._condition:
            return f"the arm is held: {self._condition}"
        return f"the arm is held: {self._cause}; to end it: {CTL} release --node {self._name}" if self._cause else ""

    def apply(self) -> None:
        """Pass the present hold on to the control process, which may be a new one."""
        if self._driver.client is not None:
            self._driver.client.hold(bool(self.reason))

    def hold_while(self, condition: str) -> None:
        """Hold the arm for ``condition`` until this is called again with another one, or without one."""
        before, self._condition = self._condition, condition
        if condition:
            self.apply()
            self._mover.interrupt(self.reason)
        elif before and not self._cause and self._driver.client is not None:
            self._driver.client.release()

    def follow(self, state: Record) -> None:
        """Keep holding an arm that was pushed and holds by itself; called with every ``state`` while it is active."""
        if self._cause or not int(state["hold"]) & Hold.PUSHED:
            return
        client = self._driver.client
        # A state from before the last release does not count.
        if client is not None and state["release_id"] == client.release_id:
            self._hold("an external force or torque exceeded max_external_force or max_external_torque")
            self._node.get_logger().error(self.reason)

    def _on_hold(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        owner = self._mover.owner
        self._hold("a client called ~/hold")
        response.success = True
        response.message = f"held; {owner} no longer controls the arm" if owner else "held"
        self._node.get_logger().info(response.message)
        return response

    def _on_release(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        response.success = True
        response.message = "released" if self._cause else "it was not held"
        self._cause = ""
        if self._condition:
            response.success, response.message = False, self.reason
        elif self._driver.client is not None:
            self._driver.client.release()
        self._node.get_logger().info(response.message)
        return response

    def _hold(self, cause: str) -> None:
        self._cause = cause
        self.apply()
        self._mover.interrupt(self.reason)
