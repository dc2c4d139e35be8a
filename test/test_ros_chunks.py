"""Chunks through a node, as its client sees them: from the node's reports to tickets. The node is not there."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import numpy as np
import pytest
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.context import Context
from rclpy.node import Node
from rclpy.serialization import serialize_message

from aiofranka_ros.api import ros_chunks
from aiofranka_ros.api.ros_chunks import RosChunks
from aiofranka_ros.arm.chunks import Outcome, Ticket
from aiofranka_ros.errors import ConnectionFailed, FrankaError, InvalidTarget, NotStarted
from aiofranka_ros.ros.chunk_reports import ChunkReport, ChunkState
from aiofranka_ros.ros.trajectories import joint_trajectory

pytestmark = pytest.mark.unit

DT = 0.1
ROWS = np.outer(np.sin(np.arange(8)), np.ones(7))


class Client:
    """A client whose node is discovered at once, and whose reports are given by the test."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.chunks = RosChunks(self, "/arm", time.time_ns)  # type: ignore[arg-type]

    def in_loop(self, callback: Callable[[Any], object]) -> Callable[[Any], object]:
        return callback

    async def ready(self, *servers: Callable[[], bool], timeout: float) -> bool:
        return True

    def _callback(self, topic: str) -> Callable[[Any], None]:
        (found,) = (it.callback for it in self.node.subscriptions if it.topic_name == f"/arm/{topic}")
        return found  # type: ignore[no-any-return]

    def report(self, state: ChunkState, stamp: int, publisher: str = "", **values: Any) -> None:
        publisher = publisher or self.node.get_fully_qualified_name()
        report = ChunkReport("joint_chunk", state, stamp=stamp, arrival=stamp, begin=stamp, publisher=publisher)
        message = DiagnosticArray(status=[report._replace(**values).message_of("/arm")])
        self._callback("chunk_status")(message)

    def rest(self, stamp: int, rows: Any) -> None:
        self._callback("joint_committed")(serialize_message(joint_trajectory(stamp, (), np.array(rows), DT)))

    def follow(self, stamp: int) -> Coroutine[Any, Any, Ticket]:
        return self.chunks.follow("q", ROWS, DT * np.arange(len(ROWS)), stamp, None)


@pytest.fixture
def client() -> Iterator[Client]:
    context = Context()
    rclpy.init(context=context)
    node = rclpy.create_node("policy", context=context, use_global_arguments=False)
    yield Client(node)
    node.destroy_node()
    context.try_shutdown()


async def begun(call: Coroutine[Any, Any, Ticket]) -> asyncio.Task[Ticket]:
    """The task of a call that has sent its chunk."""
    task = asyncio.ensure_future(call)
    for _ in range(3):
        await asyncio.sleep(0.0)
    return task


def test_reports_become_a_ticket(client: Client) -> None:
    async def work() -> None:
        stamp = time.time_ns()
        task = await begun(client.follow(stamp))
        client.report(ChunkState.ACCEPTED, stamp, "/another", number=1)
        await asyncio.sleep(0.0)
        assert not task.done()
        client.report(ChunkState.ACCEPTED, stamp, number=2, points=8, dropped=1, clipped=3, seam=(0.0, 0.25))
        client.report(ChunkState.FOLLOWED, stamp, number=2, delay=0.125)
        ticket = await task
        assert (ticket.number, ticket.dropped, ticket.clipped, ticket.seam) == (2, 1, 3, (0.0, 0.25))
        assert ticket.latency == pytest.approx(0.125)
        assert ticket.start == pytest.approx(time.monotonic(), abs=30.0)
        assert ticket.ends_at - ticket.start == pytest.approx(0.7)
        assert client.chunks.inference_delay(DT, 0.95) == 2
        client.report(ChunkState.ENDED, stamp, number=2, reason="replaced", message="a newer chunk replaced it")
        assert ticket.outcome is Outcome.REPLACED and ticket.reason == "a newer chunk replaced it"

    asyncio.run(work())


@pytest.mark.parametrize("reason", ["too late", "overridden"])
def test_a_refusal_is_raised_with_its_reason(client: Client, reason: str) -> None:
    async def work() -> None:
        task = await begun(client.follow(5))
        client.report(ChunkState.REFUSED, 5, reason=reason, message="it is so")
        with pytest.raises(InvalidTarget, match="/arm refused a chunk: it is so") as refused:
            await task
        assert refused.value.reason == reason

    asyncio.run(work())


def test_a_chunk_that_the_node_never_read_is_replaced(client: Client) -> None:
    async def work() -> None:
        first, second = await begun(client.follow(5)), await begun(client.follow(6))
        client.report(ChunkState.ACCEPTED, 6, number=1)
        assert (await second).number == 1
        with pytest.raises(InvalidTarget) as refused:
            await first
        assert refused.value.reason == "replaced"

    asyncio.run(work())


def test_two_chunks_from_one_observation_are_told_apart(client: Client) -> None:
    async def work() -> None:
        first, second = await begun(client.follow(5)), await begun(client.follow(5))
        client.report(ChunkState.ACCEPTED, 5, number=1)
        client.report(ChunkState.ACCEPTED, 6, number=2)
        assert ((await first).number, (await second).number) == (1, 2)

    asyncio.run(work())


def test_a_node_that_does_not_answer_is_an_error(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ros_chunks, "_ANSWER_TIMEOUT", 0.01)
    with pytest.raises(ConnectionFailed, match="did not answer a chunk"):
        asyncio.run(client.follow(5))


def test_everything_ends_with_the_arm(client: Client) -> None:
    async def work() -> None:
        task = await begun(client.follow(5))
        client.report(ChunkState.ACCEPTED, 5, number=1)
        ticket = await task
        waiting = await begun(client.follow(6))
        client.chunks.close("the arm was stopped")
        assert ticket.outcome is Outcome.STOPPED and ticket.reason == "the arm was stopped"
        with pytest.raises(NotStarted) as error:
            await waiting
        assert isinstance(error.value, FrankaError)

    asyncio.run(work())


def test_what_is_committed_is_known_at_any_time_of_the_rest(client: Client) -> None:
    now = time.time_ns()
    assert client.chunks.committed(5, DT, None, 0.0)[0].shape == (0, 7)
    rows = np.outer(np.linspace(0.0, 1.9, 20) ** 2, np.ones(7))
    client.rest(now, rows)
    on_grid, certain = client.chunks.committed(50, DT, now, 0.25)
    np.testing.assert_allclose(on_grid, rows, atol=1e-12)
    assert certain >= 3  # Those within chunk_freeze from now on; time has passed since.
    between, _ = client.chunks.committed(4, 0.05, now + 30_000_000, 0.0)
    np.testing.assert_allclose(between[:, 0], (0.03 + 0.05 * np.arange(4)) ** 2, atol=1e-9)
    client.rest(now, np.empty((0, 7)))
    assert client.chunks.committed(5, DT, now, 0.0)[0].shape == (0, 7)
