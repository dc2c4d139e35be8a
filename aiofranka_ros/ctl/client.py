"""A client of one node whose methods wait for their answers, written as a user would write it.

Used by :mod:`aiofranka_ros.ctl`, and by tests, benchmarks and the demo through :mod:`aiofranka_ros.testing`. It runs in
the caller's thread: each method spins until it has its answer. A program with an event loop uses
:mod:`aiofranka_ros.api.ros_client` instead, and a node that must not wait has its own clients.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.srv import GetParameters, ListParameters, SetParametersAtomically
from rclpy.action import ActionClient, get_action_server_names_and_types_by_node
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import NodeNameNonExistentError
from rclpy.parameter import Parameter, parameter_value_to_python
from rclpy.signals import SignalHandlerOptions
from rclpy.subscription import Subscription
from std_srvs.srv import Trigger

#: Longest wait for anything [s]: ten times what it takes on an idle computer.
PATIENCE = 40.0
#: How long a transition may take [s]: the first one may have to compile the kernels.
_TRANSITION = 120.0
#: How long services of a node may appear after one another [s]; where a stopped process was killed, it takes seconds.
_DISCOVERY = 10.0

_Self = TypeVar("_Self", bound="NodeClient")


class Failed(Exception):
    """Something that was waited for did not happen; the message says what."""


class Offered(NamedTuple):
    """Full names and types of what a node offers, as far as the graph knows it."""

    publishers: dict[str, str]
    subscribers: dict[str, str]
    services: dict[str, str]
    actions: dict[str, str]


class NodeClient:
    """A client of any lifecycle node or ordinary node. A context manager; at its end, the client has left the graph.

    :param name: full name of the node.
    :param own_name: name of the client's own node.
    :param on_wait: called after every message, and at least every tenth of a second, during any wait.
    """

    def __init__(self, name: str, *, own_name: str = "client", on_wait: Callable[[], None] = lambda: None) -> None:
        self.name = name
        self._on_wait = on_wait
        self._context = Context()
        rclpy.init(args=[], context=self._context, signal_handler_options=SignalHandlerOptions.NO)
        self.node = rclpy.create_node(own_name, context=self._context, use_global_arguments=False)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)
        self._actions: list[ActionClient] = []
        #: The newest status of each name in the node's diagnostics.
        self.statuses: dict[str, Any] = {}
        self._asked = 0
        # On Humble, rclpy does not pass on when a message was sent.
        with_info = hasattr(Subscription, "CallbackType")
        on_diagnostics = self._on_diagnostics if with_info else lambda message: self._on_diagnostics(message, {})
        self.node.create_subscription(DiagnosticArray, "/diagnostics", on_diagnostics, 20)
        self._change_state = self.node.create_client(ChangeState, f"{name}/change_state")
        self._get_state = self.node.create_client(GetState, f"{name}/get_state")
        self._set_parameters = self.node.create_client(SetParametersAtomically, f"{name}/set_parameters_atomically")
        self._get_parameters = self.node.create_client(GetParameters, f"{name}/get_parameters")
        self._list_parameters = self.node.create_client(ListParameters, f"{name}/list_parameters")

    def action(self, kind: Any, name: str) -> ActionClient:
        """A client of an action, which this client closes."""
        client = ActionClient(self.node, kind, name)
        self._actions.append(client)
        return client

    def close(self) -> None:
        """Leave the graph."""
        for action in self._actions:
            action.destroy()
        self._executor.shutdown()
        self.node.destroy_node()
        self._context.try_shutdown()

    def __enter__(self: _Self) -> _Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    # Waiting.

    def spin_until(self, condition: Callable[[], Any], timeout: float = PATIENCE, *, period: float = 0.05) -> bool:
        """Whether ``condition`` came true within ``timeout`` [s].

        :param period: how often to evaluate it if no message arrives [s].
        """
        deadline = time.monotonic() + timeout
        while not condition():
            if time.monotonic() > deadline:
                return False
            self._executor.spin_once(timeout_sec=period)
            self._on_wait()
        return True

    def spin_for(self, duration: float) -> None:
        """Receive messages for ``duration`` [s]."""
        self.spin_until(lambda: False, duration)

    def wait(
        self, condition: Callable[[], Any], failure: str, timeout: float = PATIENCE, *, period: float = 0.05
    ) -> None:
        """Wait for ``condition``.

        :raises Failed: it does not come true within ``timeout`` [s]; the message begins with ``failure``.
        """
        if not self.spin_until(condition, timeout, period=period):
            raise Failed(f"{failure} (waited for {timeout:.0f} s)")

    def result(self, future: Any, failure: str = "no answer", timeout: float = PATIENCE) -> Any:
        """The result of an rclpy future.

        :raises Failed: there is none within ``timeout`` [s].
        """
        self.wait(future.done, failure, timeout)
        return future.result()

    def call(self, client: Any, request: Any, timeout: float = PATIENCE) -> Any:
        """The response of a service.

        :raises Failed: there is none within ``timeout`` [s].
        """
        self.wait(client.service_is_ready, f"no service {client.srv_name}", timeout)
        return self.result(client.call_async(request), f"no answer from {client.srv_name}", timeout)

    def trigger(self, service: str) -> Any:
        """The response of one of the node's ``std_srvs/Trigger`` services.

        :raises Failed: the node does not have the service, or does not answer.
        """
        client = self.node.create_client(Trigger, f"{self.name}/{service}")
        try:
            return self.call(client, Trigger.Request())
        finally:
            self.node.destroy_client(client)

    # The graph.

    def exists(self, timeout: float = PATIENCE) -> bool:
        """Whether the node is on the graph, or appears there within ``timeout`` [s]."""
        return self.spin_until(self._list_parameters.service_is_ready, timeout)

    def others(self) -> list[str]:
        """Full names of the nodes on the graph, without this one."""
        found = {f"{space.rstrip('/')}/{name}" for name, space in self.node.get_node_names_and_namespaces()}
        return sorted(found - {self.node.get_fully_qualified_name()})

    def offered(self, node: str = "") -> Offered:
        """What a node offers, as far as the graph knows it now; nothing while it does not know the node.

        :param node: its full name; by default that of this client's node.
        """
        namespace, _, name = (node or self.name).rpartition("/")
        kinds = (
            self.node.get_publisher_names_and_types_by_node,
            self.node.get_subscriber_names_and_types_by_node,
            self.node.get_service_names_and_types_by_node,
            lambda *names: get_action_server_names_and_types_by_node(self.node, *names),
        )
        try:
            return Offered(*({full: types[0] for full, types in ask(name, namespace or "/")} for ask in kinds))
        except NodeNameNonExistentError:
            return Offered({}, {}, {}, {})

    def offers(self, *names: str, node: str = "", timeout: float = PATIENCE) -> Offered:
        """What a node offers, once the graph knows some of each kind, and these names.

        A node answers before its name and all its endpoints are discovered; on a busy computer, seconds before.

        :param names: full names of topics, services or actions.
        :param node: see :meth:`offered`.
        :raises Failed: the graph does not know that within ``timeout`` [s]; the message says what is missing.
        """
        if not self.spin_until(lambda: self._missing(names, self.offered(node)) == [], timeout):
            missing = ", ".join(self._missing(names, self.offered(node)))
            raise Failed(f"the graph does not know {missing} of {node or self.name} (waited for {timeout:.0f} s)")
        return self.offered(node)

    @staticmethod
    def _missing(names: Sequence[str], found: Offered) -> list[str]:
        kinds = [f"any {kind}" for kind, known in found._asdict().items() if not known]
        return kinds + [name for name in names if not any(name in known for known in found)]

    # Lifecycle.

    def has_lifecycle(self, timeout: float = _DISCOVERY) -> bool:
        """Whether the node, which :meth:`exists`, is a lifecycle node as far as is known within ``timeout`` [s]."""
        return self.spin_until(self._get_state.service_is_ready, timeout)

    def change(self, transition: str, number: int = 0) -> bool:
        """Request a transition by its label, or by its number if the label is empty; return whether it succeeded."""
        request = ChangeState.Request()
        request.transition.label, request.transition.id = transition, number
        return bool(self.call(self._change_state, request, _TRANSITION).success)

    def state_or_none(self, timeout: float = 1.0) -> str | None:
        """The node's lifecycle state, or ``None`` if it does not answer within ``timeout`` [s]."""
        if not self._get_state.service_is_ready():
            self.spin_for(0.05)
            return None
        answer = self._get_state.call_async(GetState.Request())
        if not self.spin_until(answer.done, timeout):
            self._get_state.remove_pending_request(answer)
            return None
        return str(answer.result().current_state.label)

    @property
    def state(self) -> str:
        """The node's lifecycle state."""
        return str(self.call(self._get_state, GetState.Request()).current_state.label)

    def becomes(self, state: str) -> bool:
        """Whether the node enters ``state`` in time."""
        return self.spin_until(lambda: self.state == state)

    # Parameters.

    def set(self, **values: Any) -> str:
        """Set parameters together; return why they were refused, or an empty string."""
        parameters = [Parameter(name, value=value).to_parameter_msg() for name, value in values.items()]
        result = self.call(self._set_parameters, SetParametersAtomically.Request(parameters=parameters)).result
        assert result.successful == (not result.reason)
        return str(result.reason)

    def get(self, name: str) -> Any:
        """The value of a parameter."""
        return self.get_all([name])[name]

    def get_all(self, names: Sequence[str]) -> dict[str, Any]:
        """The values of parameters, which must exist."""
        values = self.call(self._get_parameters, GetParameters.Request(names=names)).values
        return dict(zip(names, map(parameter_value_to_python, values), strict=True))

    def parameter_names(self) -> list[str]:
        """The names of all parameters."""
        return sorted(self.call(self._list_parameters, ListParameters.Request()).result.names)

    # Actions.

    def outcome(self, handle: Any, timeout: float = PATIENCE) -> Any:
        """Status and result of an accepted goal, once it has ended."""
        return self.result(handle.get_result_async(), "a goal has no result", timeout)

    def cancel(self, handle: Any) -> Any:
        """Cancel a goal; return the response."""
        return self.result(handle.cancel_goal_async(), "a cancel request was not answered")

    # Diagnostics.

    def value(self, status: str, key: str) -> str:
        """A value of the newest diagnostics; empty if they do not contain it."""
        found = self.statuses.get(status)
        return next((item.value for item in found.values if item.key == key), "") if found else ""

    def diagnostics(self, status: str) -> tuple[Any, dict[str, str]]:
        """Level and values of a status that was published after this call."""
        self.refresh(status)
        found = self.statuses[status]
        return found.level, {value.key: value.value for value in found.values}

    def forget(self) -> None:
        """Forget all statuses, and ignore what was published before this call."""
        self.statuses.clear()
        self._asked = time.time_ns()

    def refresh(self, *names: str) -> None:
        """Forget all statuses and wait for those called ``names``, published after this call; by default, for all."""
        self.forget()
        wanted = names or ("robot", "control loop", "targets")
        self.wait(lambda: all(name in self.statuses for name in wanted), f"no diagnostics of {', '.join(wanted)}")

    def _on_diagnostics(self, message: Any, info: Mapping[str, Any]) -> None:
        if info.get("source_timestamp", self._asked) < self._asked:
            return  # It was sent before refresh() was called.
        for status in message.status:
            node, _, name = status.name.partition(": ")
            if node == self.name.lstrip("/"):
                self.statuses[name] = status
