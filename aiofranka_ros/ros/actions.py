"""Action servers: refuse what cannot be done with a reason, pursue the rest, and report how each goal ended.

Used by the arm's node and by the gripper's node, in their processes and their one thread. Each node has one
:class:`Actions`, with which it serves all of its actions; a goal is a coroutine of the node's executor.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeVar

from action_msgs.msg import GoalInfo
from rclpy.action import ActionServer, CancelResponse, GoalResponse
from rclpy.action.server import ServerGoalHandle
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.task import Future

from aiofranka_ros.errors import InvalidTarget
from aiofranka_ros.ros.bounded import bounded_action
from aiofranka_ros.ros.clients import KEPT, GoalClients
from aiofranka_ros.ros.refusals import RefusalTopic
from aiofranka_ros.ros.requests import goal_channel
from aiofranka_ros.ros.results import TICK, Results
from aiofranka_ros.ros.warnings import Warnings

#: What a goal is made into when it is checked: everything that is needed to pursue it.
Checked = TypeVar("Checked")


class Ending(NamedTuple):
    """How a goal ended. It succeeded unless ``failure`` says why it was aborted, or it was cancelled."""

    result: Any
    failure: str = ""
    cancelled: bool = False


class Actions:
    """The action servers of one node.

    They exist in every state of the node, so that a goal that cannot be pursued now is rejected with a reason; without
    a server, the client would wait.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self._servers: list[ActionServer] = []
        self._results: list[Results] = []
        self._clients = GoalClients(node)
        #: Names of the actions that are served.
        self.names: list[str] = []
        #: Why every goal is refused; empty: goals are accepted. See :attr:`.Identity.conflict`.
        self.conflict = ""
        #: Called with the client of each goal to move the arm, the full name of its node or nothing; may refuse it.
        self.require_free: Callable[[str], None] = lambda client: None
        self._accepted = 0
        self._timer = node.create_timer(TICK, self._tick, clock=Clock(clock_type=ClockType.STEADY_TIME))
        #: Refused goals by reason, since the node was started.
        self.rejected: Counter[str] = Counter()
        #: Tells clients why something was refused.
        self.refusals = RefusalTopic(node)
        #: For goals that are refused or fail, which a client can send at any rate.
        self.warnings = Warnings(node.get_logger().warning)

    @property
    def busy(self) -> bool:
        """Whether an accepted goal has no result yet, or the answer to its client was not sent yet."""
        return self._accepted > 0 or any(results.waiting for results in self._results)

    def destroy(self) -> None:
        """Serve no more goals."""
        for results in self._results:
            results.flush()
        for server in self._servers:
            server.destroy()

    def why_abandoned(self, handle: ServerGoalHandle) -> str:
        """Why a goal must end because its client is gone, in a sentence; empty if it may continue.

        With the node's parameter ``goals_outlive_clients`` it may always. May be called often.
        """
        reason = self._clients.why_gone(_id_of(handle))
        if not reason or self._node.get_parameter("goals_outlive_clients").value:
            return ""
        return f"{reason}; the parameter goals_outlive_clients would let its goals continue"

    def refuse(self, what: str, error: InvalidTarget, goal_id: bytes = b"") -> None:
        """Count, log and report a refused goal, or another request for motion.

        :param what: what was refused, e.g. ``a goal of ~/move``.
        :param goal_id: empty for a request that has none.
        """
        self.rejected[error.reason] += 1
        self.refusals.goal(what, error, goal_id)
        self.warnings.warn((what, error.reason), f"rejected {what}: {error}")

    def require_alone(self) -> None:
        """:raises InvalidTarget: another node would get the same goals."""
        if self.conflict:
            raise InvalidTarget(self.conflict, reason="another node")

    def serve(
        self,
        kind: Any,
        names: Sequence[str],
        check: Callable[[Any], Checked],
        pursue: Callable[[ServerGoalHandle, Checked], Awaitable[Ending]],
        *,
        title: str = "",
        moves: bool = False,
        cancellable: bool = True,
        longest_list: int = 100,
    ) -> None:
        """Serve an action under each of ``names``.

        :param kind: type of the action.
        :param check: makes a goal message into what ``pursue`` needs; raises ``InvalidTarget`` if the goal is refused.
        :param pursue: pursues one goal. It looks at ``handle.is_cancel_requested`` and :meth:`why_abandoned` by itself.
        :param title: what log messages call the action; by default its first name.
        :param moves: whether its goals move the arm, see :attr:`require_free`.
        :param cancellable: whether requests to cancel a goal are accepted.
        :param longest_list: how long lists of a goal may be; ``check`` refuses longer ones, which are cut, see
            :mod:`aiofranka_ros.ros.bounded`.
        """
        title = title or names[0]
        checked: Any = None

        def on_goal(name: str, goal: Any) -> GoalResponse:
            nonlocal checked
            try:
                self.require_alone()
                if moves:
                    self.require_free(self._clients.client_of(self._clients.requested(name)))
                checked = check(goal)
            except InvalidTarget as error:
                self.refuse(f"a goal of {title}", error, self._clients.requested(name))
                return GoalResponse.REJECT
            return GoalResponse.ACCEPT

        def on_accepted(name: str, results: Results, handle: ServerGoalHandle) -> None:
            # rclpy calls this right after on_goal, before it looks at another goal.
            nonlocal checked
            mine, checked = checked, None
            self._accepted += 1
            self._clients.begin(_id_of(handle), name)
            results.accepted(_id_of(handle))
            handle.execute(partial(execute, mine))

        async def execute(mine: Checked, handle: ServerGoalHandle) -> Any:
            try:
                ending = await pursue(handle, mine)
            finally:
                self._accepted -= 1
                self._clients.end(_id_of(handle))
            if ending.failure:
                self.warnings.warn(title, f"{title} was aborted: {ending.failure}")
            if handle.is_active:  # A client that is gone, or a node that ends, may have ended the goal already.
                end = handle.abort if ending.failure else handle.canceled if ending.cancelled else handle.succeed
                end()
            return ending.result

        def on_cancel(handle: ServerGoalHandle) -> CancelResponse:
            return CancelResponse.ACCEPT if cancellable else CancelResponse.REJECT

        bounded_kind = bounded_action(kind, longest_list)
        for name in names:
            results = Results(self._wake)
            server = _Server(
                self._clients, results, self._node, bounded_kind, name, execute, cancel_callback=on_cancel,
                goal_callback=partial(on_goal, name), handle_accepted_callback=partial(on_accepted, name, results),
                **KEPT,
            )  # fmt: skip
            self._clients.follow(server, kind, name)
            self._servers.append(server)
            self._results.append(results)
            self.names.append(name)

    def _tick(self) -> None:
        left = [results.tick() for results in self._results]
        if not any(left):
            self._timer.cancel()

    def _wake(self) -> None:
        """Continue with the ticks."""
        if self._timer.is_canceled():
            self._timer.reset()


class _Server(ActionServer):
    """An action server that takes goals aside, tells ``clients`` of each request (rclpy passes on only the goal), and
    answers through ``results``."""

    def __init__(
        self, clients: GoalClients, results: Results, node: Node, kind: Any, name: str, *arguments: Any, **options: Any
    ) -> None:
        super().__init__(node, kind, name, *arguments, **options)
        self._clients, self._results, self._name = clients, results, name
        self._is_goal_request_ready = False
        self._channel = goal_channel(self._handle, kind)

    def take_data(self) -> Any:
        """Take what has arrived; called by the executor."""
        taken: dict[str, Any] = {}
        if self._is_goal_request_ready and self._channel is not None:
            self._is_goal_request_ready = False
            aside = getattr(self._node.executor, "aside", lambda function: function())
            number, request = aside(self._channel.take)
            if number is not None:
                taken["goal"] = number, request
        return {**super().take_data(), **taken}

    async def execute(self, taken_data: Any) -> None:
        """Handle what was taken; called by the executor."""
        if "goal" in taken_data:
            header, request = taken_data["goal"]
            self._clients.request(self._name, header.sequence_number, bytes(request.goal_id.uuid))
        if "result" in taken_data:
            _, request = taken_data["result"]
            self._results.asked(bytes(request.goal_id.uuid))
        await super().execute(taken_data)

    async def _execute_goal_request(self, request_header_and_message: Any) -> None:
        """As in rclpy, except for how the answer is sent."""
        if self._channel is None:
            await super()._execute_goal_request(request_header_and_message)
            return
        number, request = request_header_and_message
        info, key = GoalInfo(goal_id=request.goal_id), bytes(request.goal_id.uuid)
        accepted = not self._handle.goal_exists(info) and self._goal_callback(request.goal) == GoalResponse.ACCEPT
        if accepted:
            info.stamp = self._node.get_clock().now().to_msg()
            handle = ServerGoalHandle(self, info, request.goal)
            self._goal_handles[key], self._result_futures[key] = handle, Future()
            self.add_future(self._result_futures[key])
        response = self._action_type.Impl.SendGoalService.Response(accepted=accepted, stamp=info.stamp)
        self._channel.answer(number, response)
        if accepted:
            self._handle.publish_status()
            self._handle_accepted_callback(handle)

    def _send_result_response(self, request_header: Any, future: Future) -> None:
        """Answer a client; rclpy calls this when its goal has ended, or at once if it has already."""
        self._results.send(partial(super()._send_result_response, request_header, future))


def _id_of(handle: ServerGoalHandle) -> bytes:
    return bytes(handle.goal_id.uuid)


def at_intervals(period: float, publish: Callable[..., None]) -> Callable[..., None]:
    """``publish``, called at most once per ``period`` [s]: calls that come earlier do nothing."""
    due = time.monotonic()

    def publish_if_due(*arguments: Any) -> None:
        nonlocal due
        now = time.monotonic()
        if now >= due:
            due = max(due + period, now)
            publish(*arguments)

    return publish_if_due
