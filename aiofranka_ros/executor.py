"""The node's executor: targets are waited for almost alone, everything else has its turn between them.

Used by the node, in its process and its one thread. Before every wait, rclpy builds a wait set of all that a node has,
and afterwards asks every one of it whether it is ready. For this node's thirty services and five action servers that
takes longer than all that is done with a target. So the executor waits with the few things that cannot wait, and looks
at the whole node every few milliseconds, without waiting.
"""

from __future__ import annotations

import time
from typing import Any

from rclpy.executors import SingleThreadedExecutor, TimeoutException
from rclpy.node import Node

#: How often everything that can wait has its turn [s]: that much later than it could, a service may be answered.
TURN_PERIOD = 0.01
#: How long a turn may take that has more and more to do [s]; meanwhile targets have to wait as long as the rest.
_LONGEST_TURN = 0.005


class _Urgent:
    """The part of a node that is waited for, with as much of a node as rclpy's executor looks at.

    Events of subscriptions, such as a publisher whose QoS does not fit, are left to the turns of the rest.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self.clients = self.services = self.guards = self.waitables = ()
        self.look()

    def look(self) -> None:
        """See what the node has now."""
        patient = self._node.default_callback_group
        self.subscriptions = [one for one in self._node.subscriptions if one.callback_group is not patient]
        self.timers = [one for one in self._node.timers if one.callback_group is not patient]


class TargetsFirstExecutor(SingleThreadedExecutor):
    """An executor of one thread for a node most of whose callbacks can wait.

    :param node: what is in its default callback group can wait for its turn; subscriptions and timers in other groups
        cannot. The default group has to be one that lets a callback begin while another one awaits something, or
        nothing could end that wait.
    """

    def __init__(self, node: Node) -> None:
        super().__init__(context=node.context)
        self.add_node(node)
        self._urgent = _Urgent(node)
        self._due = 0.0

    def spin_turn(self, timeout: float | None = None) -> None:
        """Wait until something is ready that cannot wait, and run it; then what can, if its turn has come.

        :param timeout: how long to wait [s]; ``None``: until then.
        :raises Exception: that of a callback.
        """
        self._run_next(timeout, [self._urgent])
        now = time.monotonic()
        if now >= self._due:
            self._due = now + TURN_PERIOD
            # As long as there is something: a round takes one message of each kind.
            while self._run_next(0.0, None) and time.monotonic() < now + _LONGEST_TURN:
                pass
            self._urgent.look()

    def _run_next(self, timeout: float | None, nodes: Any) -> bool:
        """Run the next callback of ``nodes`` that is ready; return whether there was one."""
        try:
            handler, _, _ = self.wait_for_ready_callbacks(timeout, nodes)
        except TimeoutException:
            return False
        handler()
        error = handler.exception()
        if error is not None:
            raise error
        return True
