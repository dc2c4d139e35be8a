"""In which order a client asks for changes of a node's parameters, and what it learns of them. No ROS graph."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest

from aiofranka_ros.api.node_connection import ParameterQueue
from aiofranka_ros.errors import ConfigurationError, ConnectionFailed

pytestmark = pytest.mark.unit


class SlowNode:
    """A client of a node that answers each request when the test says so."""

    def __init__(self) -> None:
        service = SimpleNamespace(srv_name="set", call_async=lambda request: request)
        self.node = SimpleNamespace(create_client=lambda kind, name: service)
        self.requests: list[tuple[dict[str, Any], Callable[[Any], object]]] = []
        self.loop = asyncio.get_running_loop()

    def in_loop(self, callback: Callable[[Any], object]) -> Callable[[Any], object]:
        return lambda argument: self.loop.call_soon_threadsafe(callback, argument)

    def request(self, send: Callable[[], Any], done: Callable[[Any], object]) -> None:
        self.requests.append(({each.name: each.value.double_value for each in send().parameters}, done))

    @property
    def asked(self) -> list[dict[str, Any]]:
        return [values for values, _ in self.requests]

    async def answer(self, reason: str = "", number: int = -1) -> None:
        """Answer a request, the newest one by default; refuse it for ``reason``."""
        answer: asyncio.Future[Any] = self.loop.create_future()
        answer.set_result(SimpleNamespace(result=SimpleNamespace(successful=not reason, reason=reason)))
        self.requests[number][1](answer)
        await turn()


async def turn() -> None:
    """Run everything that is ready."""
    for _ in range(5):
        await asyncio.sleep(0)


def run(work: Callable[[ParameterQueue, SlowNode, list[str]], Awaitable[None]]) -> None:
    async def main() -> None:
        settled: list[str] = []
        node = SlowNode()
        await work(ParameterQueue(node, "/node", lambda: settled.append("settled")), node, settled)  # type: ignore[arg-type]

    asyncio.run(main())


def test_changes_are_requested_one_after_the_other_and_only_the_newest_of_each_kind():
    async def work(queue: ParameterQueue, node: SlowNode, settled: list[str]) -> None:
        for value in (1.0, 2.0, 3.0):
            queue.put({"first": value})
            queue.put({"second": value})
            await turn()
        assert node.asked == [{"first": 1.0}] and not queue.settled and settled == []
        for _ in range(3):
            await node.answer()
        assert node.asked == [{"first": 1.0}, {"first": 3.0}, {"second": 3.0}]
        assert queue.settled and settled == ["settled"]
        await queue.wait()

    run(work)


def test_a_change_is_unsettled_before_the_event_loop_runs_again():
    async def work(queue: ParameterQueue, node: SlowNode, settled: list[str]) -> None:
        assert queue.settled
        queue.put({"first": 1.0})
        assert not queue.settled

    run(work)


def test_a_refusal_is_raised_once_and_later_changes_are_still_requested(monkeypatch):
    async def work(queue: ParameterQueue, node: SlowNode, settled: list[str]) -> None:
        queue.put({"first": 1.0})
        queue.put({"second": 2.0})
        await turn()
        await node.answer("too large")
        await node.answer()
        with pytest.raises(ConfigurationError, match="too large"):
            await queue.wait()
        await queue.wait()
        queue.put({"third": 3.0})
        with pytest.raises(ConnectionFailed, match="no answer from set within 0 s"):
            await queue.wait()
        assert queue.settled

    monkeypatch.setattr("aiofranka_ros.api.node_connection.ANSWER_TIMEOUT", 0.01)
    run(work)


def test_a_cleared_queue_ignores_the_answer_that_comes_late():
    async def work(queue: ParameterQueue, node: SlowNode, settled: list[str]) -> None:
        queue.put({"first": 1.0})
        queue.put({"second": 2.0})
        waiting = asyncio.ensure_future(queue.wait())
        await turn()
        queue.clear()
        await waiting
        await turn()
        assert queue.settled and node.asked == [{"first": 1.0}] and settled == []
        queue.put({"third": 3.0})
        await turn()
        await node.answer("late", number=0)
        await node.answer()
        await queue.wait()
        assert node.asked == [{"first": 1.0}, {"third": 3.0}] and settled == ["settled"]

    run(work)
