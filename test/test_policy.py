"""A policy that plans in chunks: when it is asked, what it is given, what is sent, and what happens if it fails.

No arm: the calls of the link are recorded, and time jumps to the next timer, so that all times are exact.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from common import InstantLoop
from isolated_objects import Planner
from test_controller_clock import Recorder

from aiofranka_ros import CudaInferenceThread, FrankaController, mpify
from aiofranka_ros.api.policy import PolicyRun
from aiofranka_ros.arm.chunks import Ticket
from aiofranka_ros.control.snapshot import Snapshot
from aiofranka_ros.errors import ConfigurationError, ControlStopped, InvalidTarget, Overridden, PolicyFailed

pytestmark = pytest.mark.unit

#: Rate of the policies [s], and how many actions they plan.
DT, HORIZON = 0.1, 20


class Link(Recorder):
    """A link whose arm executes chunks exactly as they are."""

    def __init__(self) -> None:
        super().__init__()
        self.settings.update({"mode": "impedance"})
        #: When each chunk came and when it begins [s], and its rows.
        self.chunks: list[tuple[float, float, np.ndarray]] = []
        self.sent: list[tuple[str, np.ndarray | None]] = []
        self.stops: list[float] = []
        #: Errors that the next calls of :meth:`follow` raise.
        self.refusals: list[InvalidTarget] = []
        self.delays: list[float] = []
        self.free = asyncio.Event()
        #: How old the state is that each question gets [s].
        self.ages: Iterator[float] = itertools.repeat(0.0)

    async def handed_back(self) -> None:
        await self.free.wait()

    @property
    def now(self) -> float:
        return asyncio.get_running_loop().time()

    def clock(self) -> int:
        return round(1e9 * self.now)

    def snapshot(self) -> Snapshot:
        age = next(self.ages)
        return replace(super().snapshot(), stamp=round(1e9 * self.now) - round(1e9 * age))

    def snapshot_at(self, stamp: int) -> Snapshot:
        return replace(super().snapshot(), stamp=stamp, q=np.full(7, 1e-9 * stamp))

    async def follow(self, kind: str, values: np.ndarray, times: np.ndarray, start: int, gripper: Any) -> Any:
        if self.refusals:
            raise self.refusals.pop(0)
        begin = 1e-9 * start
        if self.chunks and begin < self.chunks[-1][1] - 1e-6:
            raise InvalidTarget("it is older than the chunk in force", reason="stale")
        self.chunks.append((self.now, begin, values))
        self.sent.append((kind, gripper))
        self.delays.append(self.now - begin)
        dropped = int((begin + times < self.now - 1e-6).sum())
        return Ticket(
            number=len(self.sent), start=begin, arrived=self.now, starts_at=self.now, ends_at=begin + float(times[-1]),
            dropped=dropped, clipped=0, seam=(0.0, 0.0),
        )  # fmt: skip

    def committed(self, n: int, dt: float, start: int) -> tuple[np.ndarray, int]:
        if not self.chunks:
            return np.zeros((0, 7)), 0
        _, begin, rows = self.chunks[-1]
        return rows[max(0, round((1e-9 * start - begin) / dt)) :][:n], 0

    def inference_delay(self, dt: float, quantile: float) -> int:
        return int(np.ceil(max(self.delays, default=0.0) / dt - 1e-6))

    def stop_following(self) -> None:
        self.stops.append(self.now)


class Arm(FrankaController):
    """A controller of such an arm, and what its link has seen."""

    def __init__(self) -> None:
        self.link = Link()
        super().__init__(self.link)  # type: ignore[arg-type]
        self.guard = None
        self.chunks, self.stops, self.sent = self.link.chunks, self.link.stops, self.link.sent

    @property
    def now(self) -> float:
        return self.link.now

    def gaps(self) -> list[float]:
        """How long the arm stood still between one chunk and the next [s]."""
        ends = [begin + DT * (len(rows) - 1) for _, begin, rows in self.chunks]
        return [came - end for (came, *_), end in zip(self.chunks[1:], ends, strict=False)]


class Thinker:
    """A policy that takes ``thinks`` [s] for a chunk; the last number is used from then on."""

    def __init__(self, *thinks: float, length: int = HORIZON, width: int = 7) -> None:
        self._thinks = list(thinks)
        self._length = length
        self._width = width
        #: When it was asked [s], and what it was given.
        self.asked: list[float] = []
        self.given: list[tuple[dict[str, Any], np.ndarray, int]] = []

    async def __call__(self, observation: dict[str, Any], prefix: np.ndarray, delay: int) -> np.ndarray:
        self.asked.append(asyncio.get_running_loop().time())
        self.given.append((observation, prefix, delay))
        await asyncio.sleep(self._thinks.pop(0) if len(self._thinks) > 1 else self._thinks[0])
        return np.full((self._length, self._width), len(self.asked)) + 0.01 * np.arange(self._length)[:, None]


def run(work: Callable[[Arm], Awaitable[None]], loop: asyncio.AbstractEventLoop | None = None) -> Arm:
    """Run ``work`` with a started controller in a separate loop."""
    loop = loop or InstantLoop()

    async def main() -> Arm:
        arm = Arm()
        await arm.start()
        await asyncio.wait_for(work(arm), 1000.0)
        await arm.stop()
        return arm

    try:
        arm = loop.run_until_complete(main())
        loop.run_until_complete(loop.shutdown_default_executor())
    finally:
        loop.close()
    return arm


def driven_by(
    policy: Any, seconds: float = 20.0, ages: Iterable[float] = itertools.repeat(0.0), **options: Any
) -> tuple[Arm, PolicyRun]:
    """An arm that ``policy`` has driven for ``seconds``, and the run."""
    runs = []

    async def work(arm: Arm) -> None:
        arm.link.ages = iter(ages)
        async with arm.policy(policy, **{"dt": DT, "horizon": HORIZON, **options}) as run:
            runs.append(run)
            await run.until(seconds)

    return run(work), runs[0]


# --- When it is asked, and what is sent


def test_the_next_chunk_comes_before_the_running_one_ends() -> None:
    arm, run = driven_by(policy := Thinker(0.5), overlap=0.3)
    # From the third on, when it is known how long the policy takes: 0.3 of a chunk is left.
    np.testing.assert_allclose(arm.gaps()[2:], -0.3 * 1.9, atol=1e-6)
    np.testing.assert_allclose(np.diff(policy.asked)[2:], 0.7 * 1.9 - 0.5, atol=1e-6)
    assert run.report().gaps == 0 and run.report().chunks == len(arm.chunks)


@pytest.mark.parametrize("overlap", [0.0, 0.5, 1.0])
def test_the_overlap_says_how_much_is_left_of_a_chunk(overlap: float) -> None:
    arm, _ = driven_by(Thinker(0.5), overlap=overlap)
    # Not more than 0.9 s: then it is asked all the time, and the answer comes 0.5 s after a chunk that is 0.5 s old.
    np.testing.assert_allclose(arm.gaps()[2:], -min(overlap * 1.9, 0.9), atol=1e-6)


def test_a_policy_with_jitter_is_asked_as_if_it_were_slow() -> None:
    delays = np.random.default_rng(1).choice([0.2, 0.25, 0.9], 200, p=[0.5, 0.3, 0.2])
    arm, run = driven_by(Thinker(*delays), seconds=100.0, overlap=0.1)
    assert max(arm.gaps()[20:]) < 0.0
    assert run.report().inference_max == pytest.approx(0.9)


def test_an_action_is_due_at_the_time_of_its_observation() -> None:
    arm, _ = driven_by(policy := Thinker(0.5))
    np.testing.assert_allclose([begin for _, begin, _ in arm.chunks][1:], policy.asked[1 : len(arm.chunks)], atol=1e-6)


def test_what_the_arm_did_not_do_while_it_stood_still_is_not_left_out() -> None:
    # Nothing is in force when the first chunk comes, and 1.9 s are less than the third one takes.
    arm, run = driven_by(Thinker(0.5, 0.5, 3.0, 0.5), overlap=0.0)
    came, begin, _ = arm.chunks[0]
    assert begin == pytest.approx(came)
    (came, begin, _), (_, before, _) = arm.chunks[2], arm.chunks[1]
    # It was asked while the last rows of the second chunk were done; these, and only these, are past in the third.
    asked, stopped = came - 3.0, before + 1.9
    assert came - begin == pytest.approx(stopped - asked)
    report = run.report()
    assert report.gaps == 1 and report.gap_max == pytest.approx(came - stopped)


def test_a_wait_for_the_policy_is_logged_once_with_its_remedy(caplog: pytest.LogCaptureFixture) -> None:
    driven_by(Thinker(3.0))
    messages = [record.message for record in caplog.records if "before the next chunk came" in record.message]
    assert len(messages) == 1
    assert "A chunk lasts 1.90 s, and the policy took 3.00 s" in messages[0] and "horizon" in messages[0]


def test_the_policy_gets_the_rest_of_the_running_chunk_and_its_own_delay() -> None:
    arm, _ = driven_by(policy := Thinker(0.25), overlap=0.5)
    observation, prefix, delay = policy.given[0]
    assert prefix.shape == (0, 7) and delay == 0 and set(observation) >= {"qpos", "stamp"}
    for (observation, prefix, delay), (_, begin, rows) in zip(policy.given[2:], arm.chunks[1:], strict=False):
        first = round((1e-9 * observation["stamp"] - begin) / DT)
        np.testing.assert_array_equal(prefix, rows[first:])
        assert delay == 3  # 0.25 s are two and a half steps.


def test_the_delay_is_not_longer_than_the_prefix() -> None:
    _, _ = driven_by(policy := Thinker(3.0), overlap=0.0)
    assert all(delay <= len(prefix) for _, prefix, delay in policy.given)


def test_no_more_actions_than_the_horizon_are_sent() -> None:
    arm, _ = driven_by(Thinker(0.1, length=100))
    assert {len(rows) for _, _, rows in arm.chunks} == {HORIZON}
    arm, _ = driven_by(Thinker(0.1, length=5))
    assert {len(rows) for _, _, rows in arm.chunks} == {5}


def test_what_actions_are_depends_on_the_mode_or_is_given() -> None:
    async def work(arm: Arm) -> None:
        for mode, kind, sent in (("impedance", None, "q"), ("osc", None, "ee"), ("osc", "twist", "twist")):
            arm.switch(mode)
            width = 6 if sent == "twist" else 7
            async with arm.policy(Thinker(0.1, width=width), dt=DT, horizon=HORIZON, kind=kind) as run:
                await run.until(1.0)
            assert arm.sent[-1] == (sent, None)

    run(work)


def test_widths_of_the_gripper_are_sent_with_the_actions() -> None:
    async def infer(observation: dict[str, Any], prefix: np.ndarray, delay: int) -> tuple[np.ndarray, np.ndarray]:
        await asyncio.sleep(0.1)
        return np.zeros((30, 7)), np.full(30, 0.04)

    arm, _ = driven_by(infer)
    np.testing.assert_array_equal(arm.sent[0][1], np.full(HORIZON, 0.04))


# --- What it observes


def test_an_observation_is_the_state_and_what_observe_returns() -> None:
    async def observe() -> dict[str, Any]:
        await asyncio.sleep(0.03)
        return {"image": np.zeros((4, 4))}

    _, _ = driven_by(policy := Thinker(0.1), observe=observe)
    observation = policy.given[1][0]
    assert set(observation) >= {"qpos", "stamp", "image"}
    assert 1e-9 * observation["stamp"] == pytest.approx(policy.asked[1] - 0.03)


def test_with_a_stamp_of_the_image_the_state_is_of_the_same_time() -> None:
    async def observe() -> dict[str, Any]:
        return {"image": np.zeros((4, 4)), "stamp": round(1e9 * (asyncio.get_running_loop().time() - 0.05))}

    arm, _ = driven_by(policy := Thinker(0.2), observe=observe)
    observation = policy.given[1][0]
    assert observation["qpos"][0] == pytest.approx(policy.asked[1] - 0.05)
    assert arm.chunks[2][1] == pytest.approx(policy.asked[2] - 0.05)


def test_the_first_chunk_begins_when_it_comes_however_old_its_image_is() -> None:
    async def observe() -> dict[str, Any]:
        return {"stamp": round(1e9 * (asyncio.get_running_loop().time() - 0.05))}

    arm, _ = driven_by(Thinker(0.2), observe=observe)
    came, begin, _ = arm.chunks[0]
    assert begin == pytest.approx(came)


@pytest.mark.parametrize("overlap", [0.3, 1.0])
@pytest.mark.parametrize("age", [0.0, 0.05, 0.5])
def test_no_chunk_is_older_than_its_predecessor_which_began_while_the_arm_stood_still(
    age: float, overlap: float
) -> None:
    async def observe() -> dict[str, Any]:
        return {"stamp": round(1e9 * (asyncio.get_running_loop().time() - age))}

    # The arm waits for the first chunk, and for the fourth one; the next picture can be of the time before it came.
    arm, run = driven_by(Thinker(0.2, 0.2, 0.2, 4.0, 0.02), observe=observe, overlap=overlap)
    assert run.report().gaps and not run.report().refused
    begins = [begin for _, begin, _ in arm.chunks]
    assert np.diff(begins).min() > -1e-6
    if age:
        assert begins[1] == pytest.approx(begins[0])


def test_states_that_are_older_at_times_make_no_chunk_older_than_its_predecessor() -> None:
    arm, run = driven_by(Thinker(0.2, 0.11), ages=itertools.cycle([0.001, 0.02]), overlap=1.0)
    assert len(arm.chunks) > 10 and not run.report().refused


@pytest.mark.parametrize("kind", [np.int64, np.uint64])
def test_numbers_of_numpy_are_numbers(kind: type) -> None:
    async def observe() -> dict[str, Any]:
        return {"stamp": kind(round(1e9 * asyncio.get_running_loop().time()))}

    numbers = {"dt": np.float32(DT), "horizon": kind(HORIZON), "overlap": np.float32(0.5), "timeout": np.float32(5.0)}
    arm, run = driven_by(policy := Thinker(0.2), np.float32(10.0), observe=observe, **numbers)
    assert len(arm.chunks) > 5 and not run.report().refused
    assert arm.chunks[1][1] == pytest.approx(policy.asked[1])


@pytest.mark.parametrize("stamp", [1.5, None, 10**30])
def test_a_stamp_that_is_none_ends_the_run(stamp: Any) -> None:
    async def observe() -> dict[str, Any]:
        return {"stamp": stamp}

    with pytest.raises(PolicyFailed, match=f"observe raised ConfigurationError: its stamp is {stamp}, but must be"):
        driven_by(Thinker(0.2), observe=observe)


# --- Helpers of the user's choice, in real time


def plan(observation: dict[str, Any], prefix: np.ndarray, delay: int) -> np.ndarray:
    """A policy without any helper; an error if it ran in the event loop's thread."""
    with pytest.raises(RuntimeError):
        asyncio.get_running_loop()
    return np.ones((HORIZON, 7))


async def enough_chunks(arm: Arm, infer: Any) -> None:
    async with arm.policy(infer, dt=0.001, horizon=HORIZON, overlap=1.0) as run:
        while len(arm.chunks) < 5:
            await asyncio.sleep(0.001)
            assert not run._require_task().done()


def test_a_plain_function_runs_in_a_thread() -> None:
    run(lambda arm: enough_chunks(arm, plan), asyncio.new_event_loop())


def test_a_policy_may_have_its_own_thread() -> None:
    async def work(arm: Arm) -> None:
        with CudaInferenceThread() as thread:
            await enough_chunks(arm, thread.wrap(plan))
            await enough_chunks(arm, lambda *given: thread.run(plan, *given))

    run(work, asyncio.new_event_loop())


def test_a_policy_may_have_its_own_process_whose_death_ends_the_run() -> None:
    async def work(arm: Arm) -> None:
        async with await mpify.create(Planner, "checkpoint.pt") as policy:
            await enough_chunks(arm, policy.get_chunk)
            with pytest.raises(PolicyFailed, match="infer raised RemoteDied: .*; the arm holds"):
                async with arm.policy(policy.die, dt=DT, horizon=HORIZON) as run:
                    await run.until()

    run(work, asyncio.new_event_loop())


# --- What goes wrong


def test_if_infer_raises_the_arm_stops_and_until_says_why() -> None:
    async def infer(observation: dict[str, Any], prefix: np.ndarray, delay: int) -> np.ndarray:
        if len(prefix):
            raise ZeroDivisionError("in the model")
        return np.zeros((HORIZON, 7))

    async def work(arm: Arm) -> None:
        async with arm.policy(infer, dt=DT, horizon=HORIZON) as run:
            with pytest.raises(PolicyFailed, match="infer raised ZeroDivisionError: in the model") as failure:
                await run.until(100.0)
            assert isinstance(failure.value.__cause__, ZeroDivisionError)
            assert arm.stops == [arm.now] and arm.now < 2.0
        assert arm.running

    run(work)


def test_a_failure_that_no_one_has_seen_is_raised_at_the_end_of_the_block() -> None:
    async def work(arm: Arm) -> None:
        with pytest.raises(PolicyFailed, match="infer raised KeyError: 'image'"):
            async with arm.policy(lambda observation, prefix, delay: observation["image"], dt=DT):
                await asyncio.sleep(1.0)
        with pytest.raises(LookupError, match="of the user"):
            async with arm.policy(lambda observation, prefix, delay: observation["image"], dt=DT):
                await asyncio.sleep(1.0)
                raise LookupError("of the user")

    run(work, asyncio.new_event_loop())


def test_if_infer_is_cancelled_by_something_else_the_run_has_failed() -> None:
    async def infer(observation: dict[str, Any], prefix: np.ndarray, delay: int) -> np.ndarray:
        raise asyncio.CancelledError

    with pytest.raises(PolicyFailed, match="the run was cancelled; the arm holds"):
        driven_by(infer)


def test_if_observe_raises_the_run_ends() -> None:
    async def observe() -> dict[str, Any]:
        raise OSError("no camera")

    with pytest.raises(PolicyFailed, match="observe raised OSError: no camera"):
        driven_by(Thinker(0.1), observe=observe)


def test_if_infer_hangs_the_run_ends_after_the_time_limit() -> None:
    async def work(arm: Arm) -> None:
        async with arm.policy(Thinker(0.1, 0.1, 1e6), dt=DT, horizon=HORIZON, timeout=5.0) as run:
            with pytest.raises(PolicyFailed, match="infer has not answered for 5 s: the arm holds"):
                await run.until()
            assert arm.stops == [arm.now] and arm.now < 10.0

    run(work)


@pytest.mark.parametrize("answer", [None, 0.5, [], np.zeros((0, 7))])
def test_an_answer_that_is_no_chunk_ends_the_run(answer: Any) -> None:
    async def infer(observation: dict[str, Any], prefix: np.ndarray, delay: int) -> Any:
        return answer

    with pytest.raises(PolicyFailed, match="must return the next actions"):
        driven_by(infer)


def test_refused_chunks_are_counted_and_the_policy_is_asked_again() -> None:
    async def work(arm: Arm) -> None:
        arm.link.refusals = [InvalidTarget("", reason=reason) for reason in ("too late", "too late", "not finite")]
        async with arm.policy(Thinker(0.1), dt=DT, horizon=HORIZON) as run:
            await run.until(10.0)
        assert run.report().refused == {"too late": 2, "not finite": 1}
        assert "refused: 2 too late, 1 not finite" in str(run.report())
        assert run.report().chunks == len(arm.chunks) > 5

    run(work)


def test_a_policy_whose_chunks_are_all_refused_has_failed() -> None:
    async def infer(observation: dict[str, Any], prefix: np.ndarray, delay: int) -> np.ndarray:
        return np.zeros((HORIZON, 7))  # At once: still, it is not asked more often than it has actions.

    async def work(arm: Arm) -> None:
        arm.link.refusals = [InvalidTarget("it is far away", reason="jump")] * 100
        async with arm.policy(infer, dt=DT, horizon=HORIZON) as run:
            with pytest.raises(PolicyFailed, match="5 chunks in a row were refused: it is far away"):
                await run.until()
        assert arm.now == pytest.approx(4 * DT)

    run(work)


def test_while_a_person_has_taken_over_the_policy_waits_and_then_continues() -> None:
    async def work(arm: Arm) -> None:
        async with arm.policy(Thinker(0.1), dt=DT, horizon=HORIZON) as run:
            await run.until(5.0)
            arm.link.refusals = [Overridden("a person drives", owner="/person")]
            sent = len(arm.chunks)
            await run.until(20.0)
            assert len(arm.chunks) == sent
            arm.link.free.set()
            await run.until(5.0)
            came, begin, _ = arm.chunks[sent]
            assert begin == pytest.approx(came)
        report = run.report()
        assert report.overridden == 1 and report.gaps == 0 and "overridden 1 times" in str(report)

    run(work)


def test_if_the_control_loop_ends_the_run_says_why_even_while_infer_hangs() -> None:
    async def work(arm: Arm) -> None:
        async with arm.policy(Thinker(1e6), dt=DT, timeout=1e6) as run:
            asyncio.get_running_loop().call_later(1.0, arm._on_end, ControlStopped("a reflex"))
            with pytest.raises(ControlStopped, match="a reflex"):
                await run.until()
            assert arm.now == pytest.approx(1.0)

    run(work)


# --- How it ends


def test_when_the_block_is_left_the_arm_stops_and_nothing_is_sent_any_more() -> None:
    async def work(arm: Arm) -> None:
        async with arm.policy(Thinker(0.5), dt=DT, horizon=HORIZON) as run:
            await run.until(10.0)
        sent = len(arm.chunks)
        assert arm.stops == [pytest.approx(10.0)]
        await asyncio.sleep(10.0)
        assert len(arm.chunks) == sent

    run(work)


def test_a_cancelled_script_stops_the_arm() -> None:
    async def work(arm: Arm) -> None:
        async def script() -> None:
            async with arm.policy(Thinker(0.5), dt=DT, horizon=HORIZON) as run:
                await run.until()

        task = asyncio.ensure_future(script())
        await asyncio.sleep(5.2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert arm.stops == [pytest.approx(5.2)]
        assert len(asyncio.all_tasks()) <= 2  # This one and the test's time limit.

    run(work)


def test_a_cancelled_wait_lets_the_policy_continue() -> None:
    async def work(arm: Arm) -> None:
        async with arm.policy(Thinker(0.5), dt=DT, horizon=HORIZON) as run:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(run.until(), 3.0)
            sent = len(arm.chunks)
            await run.until(5.0)
            assert len(arm.chunks) > sent and not arm.stops

    run(work)


def test_a_run_ends_after_a_time_with_an_event_with_anything_awaited_or_by_the_state() -> None:
    async def work(arm: Arm) -> None:
        loop, event, future = asyncio.get_running_loop(), asyncio.Event(), asyncio.get_running_loop().create_future()
        async with arm.policy(Thinker(0.5), dt=DT, horizon=HORIZON) as run:
            loop.call_at(2.0, event.set)
            loop.call_at(3.0, future.set_result, None)
            for tick in range(100):
                loop.call_at(0.1 * tick, arm._on_state)
            for stop, end in (
                (1.0, 1.0),
                (event, 2.0),
                (future, 3.0),
                (asyncio.sleep(1.0), 4.0),
                (lambda state: state["stamp"] >= 5e9, 5.0),
            ):
                await run.until(stop)
                assert arm.now == pytest.approx(end)
            with pytest.raises(ConfigurationError, match="cannot be stopped by 'soon'"):
                await run.until("soon")  # type: ignore[arg-type]

    run(work)


@pytest.mark.parametrize("cancelled", [False, True])
def test_a_task_that_a_run_waits_for_continues_if_the_policy_fails_or_the_wait_is_cancelled(cancelled: bool) -> None:
    async def infer(observation: dict[str, Any], prefix: np.ndarray, delay: int) -> np.ndarray:
        await asyncio.sleep(2.0)
        raise ZeroDivisionError

    async def work(arm: Arm) -> None:
        task = asyncio.ensure_future(asyncio.sleep(5.0, "done"))
        async with arm.policy(infer, dt=DT) as run:
            with pytest.raises(asyncio.TimeoutError if cancelled else PolicyFailed):
                await asyncio.wait_for(run.until(task), 1.0 if cancelled else 3.0)
        assert await task == "done"

    run(work)


# --- How it is used wrongly


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"dt": 0.0}, "dt is 0.0"),
        ({"dt": float("nan")}, "dt is nan"),
        ({"dt": "0.1"}, "dt is '0.1'"),
        ({"dt": None}, "dt is None"),
        ({"dt": True}, "dt is True"),
        ({"timeout": -1.0}, "the timeout is -1.0"),
        ({"horizon": 1}, "the horizon is 1"),
        ({"horizon": 2.5}, "the horizon is 2.5"),
        ({"horizon": 129}, "the horizon is 129"),
        ({"overlap": 1.5}, "the overlap is 1.5"),
        ({"overlap": None}, "the overlap is None"),
        ({"kind": "qd"}, "no kind of chunk 'qd'"),
        ({"infer": "policy"}, "must be functions"),
        ({"observe": 3}, "must be functions"),
    ],
)
def test_arguments_that_cannot_be_used_are_refused_at_once(wrong: dict[str, Any], message: str) -> None:
    async def work(arm: Arm) -> None:
        with pytest.raises(ConfigurationError, match=message):
            arm.policy(**{"infer": plan, "dt": DT, **wrong})

    run(work)


def test_a_run_is_used_once_and_inside_of_its_block() -> None:
    async def work(arm: Arm) -> None:
        run = arm.policy(Thinker(0.5), dt=DT)
        with pytest.raises(ConfigurationError, match="async with controller.policy"):
            await run.until()
        async with run:
            await run.until(1.0)
        with pytest.raises(ConfigurationError, match="cannot be used twice"):
            async with run:
                pass
        assert run.report().chunks > 0

    run(work)
