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
from aiofranka_ros.api.ros_interface import RosInterface
from aiofranka_ros.arm.chunks import Outcome, Ticket
from aiofranka_ros.control.records import STATE, new
from aiofranka_ros.errors import ConnectionFailed, FrankaError, InvalidTarget, NotStarted
from aiofranka_ros.ros.chunk_reports import ChunkReport, ChunkState
from aiofranka_ros.ros.messages import snapshot_message
from aiofranka_ros.ros.trajectories import joint_trajectory

pytestmark = pytest.mark.unit

DT = 0.1
WIDTHS = np.full(8, 0.04)
ROWS = np.outer(np.sin(np.arange(8)), np.ones(7))


class Client:
    """A client whose node is discovered at once, and whose reports are given by the test."""

    def __init__(self, node: Node) -> None:
        self.node = node
        #: The node's clock is ahead of the system's [ns].
        self.ahead = 0
        #: Topics of what was published, and how many points it had.
        self.published: list[tuple[str, int]] = []
        self.chunks = RosChunks(self, "/arm", lambda: time.time_ns() + self.ahead)  # type: ignore[arg-type]
        for publisher in self.node.publishers:
            self._note(publisher)

    def _note(self, publisher: Any) -> None:
        publish = publisher.publish

        def noted(message: Any) -> None:
            self.published.append((publisher.topic_name, len(message.points)))
            publish(message)

        if publisher.topic_name.endswith("_chunk"):
            publisher.publish = noted

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

    def follow(self, stamp: int, widths: np.ndarray | None = None) -> Coroutine[Any, Any, Ticket]:
        return self.chunks.follow("q", ROWS, DT * np.arange(len(ROWS)), stamp, widths)


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


def test_the_gripper_follows_widths_once_the_arm_follows_the_chunk(client: Client) -> None:
    async def work() -> None:
        refused = await begun(client.follow(5, WIDTHS))
        client.report(ChunkState.REFUSED, 5, reason="overridden", message="/person controls the arm")
        with pytest.raises(InvalidTarget):
            await refused
        assert client.published == [("/arm/joint_chunk", 8)]
        accepted = await begun(client.follow(6, WIDTHS))
        client.report(ChunkState.ACCEPTED, 6, number=1)
        await accepted
        assert client.published[1:] == [("/arm/joint_chunk", 8), ("/franka_gripper/gripper_chunk", 8)]

    asyncio.run(work())


def test_a_stop_ends_the_chunk_and_its_widths_once(client: Client) -> None:
    async def work() -> None:
        client.chunks.stop()
        assert not client.published
        task = await begun(client.follow(stamp := time.time_ns(), WIDTHS))
        client.report(ChunkState.ACCEPTED, stamp, number=1)
        await task
        client.chunks.stop()
        assert client.published[2:] == [("/arm/joint_chunk", 0), ("/franka_gripper/gripper_chunk", 0)]
        client.report(ChunkState.ENDED, stamp, number=1, reason="stopped", message="it was stopped")
        client.chunks.stop()
        assert len(client.published) == 4

    asyncio.run(work())


def test_the_gripper_does_not_follow_a_chunk_that_the_arm_does_not_follow_any_more(client: Client) -> None:
    async def work() -> None:
        task = await begun(client.follow(stamp := time.time_ns(), WIDTHS))
        client.report(ChunkState.ACCEPTED, stamp, number=1)
        await task
        client.chunks.close("the robot stopped")
        assert client.published[2:] == [("/franka_gripper/gripper_chunk", 0)]

    asyncio.run(work())


def test_widths_that_are_done_are_not_stopped(client: Client) -> None:
    """The gripper may follow another client by then."""

    async def work() -> None:
        task = await begun(client.follow(stamp := time.time_ns() - 2_000_000_000, WIDTHS))
        client.report(ChunkState.ACCEPTED, stamp, number=1)
        await task
        client.chunks.stop()
        assert client.published[2:] == [("/arm/joint_chunk", 0)]

    asyncio.run(work())


@pytest.mark.parametrize("cancelled", [False, True])
def test_a_chunk_that_is_on_its_way_is_stopped_too(client: Client, cancelled: bool) -> None:
    async def work() -> None:
        task = await begun(client.follow(5, WIDTHS))
        if cancelled:
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        client.chunks.stop()
        assert client.published == [("/arm/joint_chunk", 8), ("/arm/joint_chunk", 0)]
        if not cancelled:
            with pytest.raises(InvalidTarget, match="it was stopped before the node had answered") as refused:
                await task
            assert refused.value.reason == "stopped"
        client.report(ChunkState.ACCEPTED, 5, number=1)
        assert len(client.published) == 2

    asyncio.run(work())


def test_a_chunk_whose_call_was_cancelled_can_be_stopped_when_it_is_in_force(client: Client) -> None:
    async def work() -> None:
        task = await begun(client.follow(5))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        client.report(ChunkState.ACCEPTED, 5, number=1)
        client.chunks.stop()
        assert client.published == [("/arm/joint_chunk", 8), ("/arm/joint_chunk", 0)]

    asyncio.run(work())


def test_times_of_a_ticket_are_monotonic_whatever_clock_the_node_has(client: Client) -> None:
    async def work() -> None:
        client.ahead = -1_000_000_000_000_000_000
        task = await begun(client.follow(stamp := time.time_ns() + client.ahead))
        client.report(ChunkState.ACCEPTED, stamp, number=1)
        ticket = await task
        assert ticket.starts_at == ticket.start == pytest.approx(time.monotonic(), abs=30.0)

    asyncio.run(work())


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
    # The stamps of a policy and of the node differ by what two conversions between clocks do.
    assert len(client.chunks.committed(50, DT, now + 5_000, 0.0)[0]) == len(rows)
    between, _ = client.chunks.committed(4, 0.05, now + 30_000_000, 0.0)
    np.testing.assert_allclose(between[:, 0], (0.03 + 0.05 * np.arange(4)) ** 2, atol=1e-9)
    client.rest(now, np.empty((0, 7)))
    assert client.chunks.committed(5, DT, now, 0.0)[0].shape == (0, 7)


def test_now_is_by_the_clock_of_the_node_which_may_run_on_another_computer() -> None:
    async def work() -> None:
        link = RosInterface("arm")
        connection = link._connect()
        try:
            (receive,) = (it.callback for it in connection.node.subscriptions if it.topic_name == "/arm/state")
            state = new(STATE)[0]
            state["stamp"] = stamp = time.time_ns() + 1_000_000_000_000
            receive(serialize_message(snapshot_message(state, True)))
            assert 0 <= link.clock() - stamp < 30_000_000_000
        finally:
            await connection.close()

    asyncio.run(work())
