"""Until the reference has met its stream of targets, it is slow, whatever gave a client control; then it follows."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from test_control_cycle import Bench
from test_reference import CYCLE, Stream, advance_joints, joints, line

from aiofranka_ros.control.records import Approach, Hold, Mode, MotionStatus
from aiofranka_ros.model import fr3

pytestmark = pytest.mark.unit

#: A fifth above the velocities of the settings: the arm must be within this, and so its reference.
LINEAR, ANGULAR = 0.12, 0.36
FAR = np.array([0.2, -0.25, 0.1])
#: A target every 20 ms.
PERIOD = 20


def repeat(stream: Stream, position: np.ndarray, cycles: int, **options: object) -> None:
    """Stream one pose at 50 Hz."""
    for _ in range(cycles // PERIOD):
        stream.target(position, **options)
        stream.advance(PERIOD)


def approach_of(stream: Stream) -> Approach:
    return Approach(int(stream.memory["approach"][0]))


def met(stream: Stream) -> Stream:
    """A stream that is followed."""
    stream.target(np.zeros(3))
    stream.advance(PERIOD)
    assert approach_of(stream) is Approach.FOLLOWING
    return stream


@pytest.mark.parametrize("settings", [{}, {"smooth_targets": 0}, {"reference_bandwidth": 2.0}])
def test_a_stream_that_begins_far_away_is_approached_slowly_and_met(settings):
    stream = Stream(**settings)
    turned = Rotation.from_rotvec([0.0, 2.0, 0.0]).as_quat()
    repeat(stream, FAR, 9000, orientation=turned)
    steps = np.linalg.norm(np.diff(stream.positions, axis=0), axis=1)
    assert approach_of(stream) is Approach.FOLLOWING
    # Unsmoothed targets begin with the last 5 mm in one step.
    assert np.sort(steps)[-2] / CYCLE <= 0.102
    turns = [Rotation.from_quat(row[3]) for row in stream.rows]
    speeds = [(after * before.inv()).magnitude() / CYCLE for before, after in zip(turns, turns[1:], strict=False)]
    assert np.sort(speeds)[-2] <= 0.31
    np.testing.assert_allclose(stream.positions[-1], FAR, atol=1e-3)


def test_the_approach_has_the_ordinary_smoothness():
    stream = Stream()
    repeat(stream, FAR, 5000)
    assert np.abs(np.diff(stream.accelerations, axis=0)).max() / CYCLE < 8.0 / 4e-3  # max acceleration in 4 ms


@pytest.mark.parametrize("distance", [0.005, 0.019])
def test_a_stream_that_begins_near_is_followed_as_if_it_had_never_been_away(distance):
    begins, follows = Stream(), met(Stream())
    begins.advance(PERIOD)
    for stream in (begins, follows):
        stream.rows.clear()
        repeat(stream, np.array([0.0, distance, 0.0]), 600)
        assert stream.memory["approaches"][0] == 0
    # Both at once; the second knows how often targets come, and begins with the time that one may take.
    np.testing.assert_allclose(begins.positions, follows.positions, rtol=0, atol=1e-3)
    np.testing.assert_allclose(begins.positions[200:], follows.positions[200:], rtol=0, atol=5e-5)


def test_a_stream_that_has_been_met_may_jump():
    stream = met(Stream())
    repeat(stream, np.array([0.14, 0.0, 0.0]), 400)
    assert np.linalg.norm(stream.velocities, axis=1).max() > 0.5
    assert stream.memory["approaches"][0] == 0


@pytest.mark.parametrize(("silence", "approaches"), [(400, 0), (1000, 1)])
def test_a_stream_that_resumes_elsewhere_after_a_silence_is_approached_again(silence, approaches):
    stream = met(Stream())
    stream.advance(silence)
    stream.rows.clear()
    repeat(stream, np.array([0.1, 0.0, 0.0]), 3000)
    assert stream.memory["approaches"][0] == approaches
    assert (np.linalg.norm(stream.velocities, axis=1).max() <= LINEAR) == bool(approaches)
    assert approach_of(stream) is Approach.FOLLOWING


def test_a_stream_is_not_silent_while_its_last_target_is_still_extrapolated():
    stream = Stream(extrapolation_time=1.0)
    for k in range(6):  # Steps of 3 cm, one in a second.
        stream.target([0.0, 0.03 * k, 0.0])
        stream.advance(1000)
    assert stream.memory["approaches"][0] == 0


def test_another_sender_is_approached_even_without_a_silence():
    stream = met(Stream())
    repeat(stream, line(0.0), 200)
    stream.commands["stream_id"] += 1
    repeat(stream, np.array([0.1, 0.0, 0.0]), 2000)
    assert stream.memory["approaches"][0] == 1
    assert np.linalg.norm(stream.velocities, axis=1).max() <= LINEAR


@pytest.mark.parametrize("speed", [0.03, 0.09])
@pytest.mark.parametrize("direction", [[1, 0, 0], [-1, 0, 0], [0, 0.6, 0.8]])
def test_a_stream_that_moves_slower_than_the_approach_is_met(speed, direction):
    stream = Stream()
    velocity = speed * np.array(direction)
    for k in range(700):
        stream.target(np.array([0.1, 0.0, 0.0]) + velocity * (PERIOD * CYCLE * k), stamp=PERIOD * CYCLE * k)
        stream.advance(PERIOD)
        if approach_of(stream) is Approach.FOLLOWING:
            break
    assert approach_of(stream) is Approach.FOLLOWING, stream.memory["approach_left"]
    assert np.linalg.norm(stream.velocities, axis=1).max() <= LINEAR


def test_a_circle_that_is_slower_than_the_approach_is_met():
    stream = Stream()
    for k in range(700):
        angle = 2 * np.pi * 0.25 * PERIOD * CYCLE * k
        stream.target([0.15 + 0.05 * np.cos(angle), 0.05 * np.sin(angle), 0.0], stamp=PERIOD * CYCLE * k)
        stream.advance(PERIOD)
        if approach_of(stream) is Approach.FOLLOWING:
            break
    assert approach_of(stream) is Approach.FOLLOWING
    assert np.linalg.norm(stream.velocities, axis=1).max() <= LINEAR


def test_a_stream_that_is_too_fast_is_chased_slowly_until_it_waits():
    stream = Stream()
    for k in range(200):
        stream.target(np.array([0.1 + 0.3 * PERIOD * CYCLE * k, 0.0, 0.0]), stamp=PERIOD * CYCLE * k)
        stream.advance(PERIOD)
    assert approach_of(stream) is Approach.APPROACHING
    assert stream.memory["approach_left"][0, 0] > 0.5
    assert np.linalg.norm(stream.velocities, axis=1).max() <= LINEAR
    stop = stream.memory["raw_position"][0].copy()
    repeat(stream, stop, 12000)
    assert approach_of(stream) is Approach.FOLLOWING
    assert np.linalg.norm(stream.velocities, axis=1).max() <= LINEAR


def test_a_fast_stream_that_passes_the_reference_is_joined():
    stream = Stream()
    for k in range(200):  # From 0.3 m away, through the reference, at three times the approach velocity.
        stream.target(np.array([0.3 - 0.3 * PERIOD * CYCLE * k, 0.01, 0.0]), stamp=PERIOD * CYCLE * k)
        stream.advance(PERIOD)
    assert approach_of(stream) is Approach.FOLLOWING
    assert stream.memory["approaches"][0] == 1


def test_only_as_much_of_a_far_target_as_a_step_may_be_does_not_count_as_the_stream():
    stream = Stream()
    stream.target(np.array([0.5, 0.0, 0.0]))
    stream.advance(3000)
    assert approach_of(stream) is Approach.WAITING
    np.testing.assert_allclose(stream.positions[-1], [0.15, 0.0, 0.0], atol=1e-3)
    stream.rows.clear()
    repeat(stream, np.array([0.5, 0.0, 0.0]), 5000)
    assert np.linalg.norm(stream.velocities, axis=1).max() <= LINEAR
    assert approach_of(stream) is Approach.FOLLOWING


def test_the_reference_meets_the_nearest_point_of_a_stream_outside_the_workspace():
    stream = Stream()
    stream.memory["workspace_upper"] = [0.1, 10.0, 10.0]
    repeat(stream, np.array([0.4, 0.0, 0.0]), 2000)
    assert approach_of(stream) is Approach.FOLLOWING


def test_an_arm_that_is_blocked_does_not_meet_its_stream():
    stream = Stream()
    stream.held = True
    repeat(stream, FAR, 6000)
    assert approach_of(stream) is Approach.APPROACHING


@pytest.mark.parametrize("smooth", [True, False])
def test_joint_targets_far_away_are_approached_slowly_and_met(smooth):
    stream = Stream()
    goal = fr3.HOME + np.array([0.6, -0.3, 0.1, 0.4, -0.6, 0.6, 0.01])
    rows = []
    for _ in range(150):
        joints(stream, goal)
        rows.append(advance_joints(stream, PERIOD, smooth=smooth))
    speeds = np.sort(np.abs(np.diff(np.concatenate(rows), axis=0)).max(axis=1) / CYCLE)
    assert speeds[-1 if smooth else -2] <= 0.31
    assert approach_of(stream) is Approach.FOLLOWING
    np.testing.assert_allclose(rows[-1][-1], goal, atol=2e-3)


def test_joint_targets_nearby_are_followed_at_once():
    stream = Stream()
    joints(stream, fr3.HOME + 0.045)
    rows = advance_joints(stream, 400)
    assert stream.memory["approaches"][0] == 0
    assert np.abs(np.diff(rows, axis=0)).max() / CYCLE > 0.36


def test_a_stream_that_begins_far_away_is_refused_if_the_user_prefers_that():
    stream = Stream(approach_far_streams=0)
    repeat(stream, FAR, 200)
    assert approach_of(stream) is Approach.REFUSED and stream.memory["far_targets"][0] == 10
    assert np.abs(stream.positions).max() == 0.0
    joints(stream, fr3.HOME + 0.5)
    np.testing.assert_array_equal(advance_joints(stream, 100)[-1], fr3.HOME)
    repeat(stream, np.array([0.01, 0.0, 0.0]), 200)
    assert approach_of(stream) is Approach.FOLLOWING
    repeat(stream, FAR / 3.0, 200)
    assert stream.memory["far_targets"][0] == 11, "once it has begun near the arm, it may go anywhere"


# --- Everything after which a client gains or regains control, in the whole cycle


def lose_by_hold(bench: Bench) -> None:
    bench.commands["hold"] = 1
    bench.run(300)
    bench.commands["hold"] = 0


def lose_by_push(bench: Bench) -> None:
    bench.commands["max_external_force"] = 10.0
    bench.measured["external_wrench"][0, 0] = 20.0
    bench.run(300)
    bench.measured["external_wrench"] = 0.0
    bench.commands["release_id"] += 1


def lose_by_silent_node(bench: Bench) -> None:
    bench.run(300, stop=Hold.NODE_SILENT)


def lose_by_move(bench: Bench) -> None:
    goal = bench.measured["q"][0] + 0.1
    bench.run(int(1e3 * bench.move(goal)) + 300)
    assert bench.status is MotionStatus.DONE
    bench.commands["motion_release"] = 1
    bench.run(100)


def lose_by_switch(bench: Bench) -> None:
    mode = Mode(int(bench.commands["mode"][0]))
    bench.switch(Mode.TORQUE)
    bench.run(300)
    bench.switch(mode)


def lose_by_same_mode(bench: Bench) -> None:
    bench.switch(Mode(int(bench.commands["mode"][0])))


def lose_by_silence(bench: Bench) -> None:
    bench.run(1000)


def lose_by_not_finite(bench: Bench) -> None:
    bench.commands["kp"] = bench.commands["ee_kp"] = np.nan
    bench.run(1, moving=False)
    bench.commands["kp"], bench.commands["ee_kp"] = 400.0, 400.0
    bench.run(10, moving=False)


LOSSES = [value for name, value in list(globals().items()) if name.startswith("lose_by_")]


@pytest.mark.parametrize("lose", LOSSES, ids=lambda lose: lose.__name__)
@pytest.mark.parametrize("mode", [Mode.OSC, Mode.IMPEDANCE, Mode.PID])
def test_whenever_control_was_lost_the_stream_is_approached_slowly(lose: Callable[[Bench], None], mode: Mode) -> None:
    bench = Bench(mode)

    def send(far: bool) -> None:
        position = bench.memory["position"][0] + [0.0, 0.1 * far, 0.0]
        orientation = bench.memory["orientation"][0].copy()
        bench.target(
            target_q=bench.measured["q"][0] + 0.2 * far,
            target_position=position, target_orientation=orientation,
        )  # fmt: skip

    bench.run(50)
    send(far=False)
    bench.run(50)
    assert bench.memory["approach"][0] == Approach.FOLLOWING
    lose(bench)
    send(far=True)
    fastest = 0.0
    for _ in range(4000):
        before = bench.memory["position"][0].copy(), bench.measured["q"][0].copy()
        bench.run(1)
        hand = np.linalg.norm(bench.memory["position"][0] - before[0]) / CYCLE
        joint = np.abs(bench.measured["q"][0] - before[1]).max() / CYCLE
        fastest = max(fastest, hand / LINEAR, 0.0 if mode is Mode.OSC else joint / ANGULAR)
    assert bench.memory["approaches"][0] == 1 and bench.memory["approach"][0] == Approach.FOLLOWING
    assert fastest <= 1.0


def far(bench: Bench, side: int) -> None:
    """Begin a stream 0.1 m to one side of the arm."""
    position = bench.memory["position"][0] + [0.0, 0.1 * side, 0.0]
    bench.target(target_position=position, target_orientation=bench.memory["orientation"][0].copy())


def run_after_gap(bench: Bench, gap: int, *, moving: bool = True) -> None:
    """Run a cycle after ``gap`` lost ones, in which the last torque moves the arm."""
    measured, elapsed = bench.measured, gap * CYCLE
    if moving:
        measured["dq"] += measured["tau_last"] / bench.INERTIA * elapsed
        measured["q"] += measured["dq"] * elapsed
    measured["time"] += elapsed
    measured["elapsed"] = elapsed + CYCLE
    bench.run(moving=moving)
    measured["elapsed"] = CYCLE


def hand_speed(bench: Bench, cycles: int, gap: int = 0) -> float:
    """Highest speed of the hand [m/s] in so many cycles; before one of twenty, ``gap`` more are lost."""
    fastest = 0.0
    for cycle in range(cycles):
        run_after_gap(bench, 0 if cycle % 20 else gap)
        fastest = max(fastest, float(np.linalg.norm(bench.memory["twist"][0, :3])))
    return fastest


@pytest.mark.parametrize("settings", [{}, {"smooth_targets": 0}])
@pytest.mark.parametrize("side", [1, -1])
@pytest.mark.parametrize("after", [60, 150, 500, 950, 1100])
def test_a_switch_while_the_arm_approaches_does_not_make_it_faster(settings, side, after):
    """Whether it accelerates, moves or brakes then, and whether the new stream is ahead of it or behind."""
    bench = Bench(Mode.OSC, **settings)
    bench.run(50)
    far(bench, 1)
    bench.run(after)
    for _ in range(2):
        bench.switch(Mode.OSC)
        bench.run(20)
        far(bench, side)
        # The torque that accelerated the arm before the switch fades out.
        assert hand_speed(bench, 250) < 0.108


@pytest.mark.parametrize("mode", [Mode.IMPEDANCE, Mode.PID])
@pytest.mark.parametrize("moving", [False, True])
def test_the_hand_approaches_joint_targets_as_slowly_as_poses(mode, moving):
    """Also if the arm still moves elsewhere when their mode begins."""
    bench = Bench(Mode.OSC)
    bench.run(50)
    if moving:
        far(bench, 1)
        bench.run(500)
    bench.switch(mode)
    bench.run()
    bench.target(target_q=bench.measured["q"][0] + [0.4, 0.2, 0.0, -0.4, 0.4, 0.4, 0.6])
    assert hand_speed(bench, 3000) < 0.108


@pytest.mark.parametrize("gap", [5, 15])
def test_lost_cycles_do_not_make_the_approach_faster(gap):
    """The torque of the cycle before continues, and the reference catches up."""
    bench = Bench(Mode.OSC)
    bench.run(50)
    far(bench, 1)
    assert hand_speed(bench, 1500, gap) < 0.108
    assert bench.memory["approach"][0] == Approach.FOLLOWING


@pytest.mark.parametrize("mode", [Mode.OSC, Mode.IMPEDANCE])
def test_after_lost_cycles_the_reference_is_where_it_would_be_without(mode):
    references = []
    for gaps in ([0] * 100, [9] * 10):
        bench = Bench(mode)
        bench.run(50)
        far(bench, 1)
        bench.target(target_q=fr3.HOME + 0.2)
        bench.run()  # It accepts the target.
        for gap in gaps:
            run_after_gap(bench, gap, moving=False)
        references.append(np.concatenate([bench.memory[name][0] for name in ("ref_position", "ref_linear", "ref_q")]))
    np.testing.assert_allclose(references[1], references[0], atol=1e-12)


def test_a_new_control_frame_begins_a_stream():
    bench = Bench(Mode.OSC)
    bench.run(10)
    bench.target(target_position=bench.memory["position"][0], target_orientation=bench.memory["orientation"][0])
    bench.run(10)
    tool = np.eye(4)
    tool[2, 3] = 0.2
    bench.commands["flange_to_tcp"] = tool
    bench.commands["law_id"] += 1
    bench.target()  # The pose of the old frame.
    bench.run(10)
    assert bench.memory["approach"][0] == Approach.APPROACHING
