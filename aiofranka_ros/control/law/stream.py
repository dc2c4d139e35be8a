"""When each target of a stream is due: a playhead on the path of the last targets.

Compiled kernels, called by :mod:`aiofranka_ros.control.law.reference` in the control process. Policies send targets
slowly, repeatedly, unevenly, in bursts and with pauses. What they mean is a path, and a time between two targets; so:

- Every target that differs from the one before becomes a *knot* of the path. Its place on the path's time axis is one
  *period* after the last knot; the period is learned from the stream, so unevenness of the network is not movement.
  Trusted stamps replace it. After a gap, the place is as much later as the way needs at the stream's usual speed: a
  policy that paused continues from its last action, one whose messages were lost is further away.
- The *playhead* moves along that axis, one second a second. In a dense stream it is at the newest knot when that
  arrives, and extrapolates until the next one: no delay. In a slower one, or one with pauses, it is a period behind,
  between knots, and slows down before the last one: never ahead of what was asked for. Where it should be and where it
  is may differ a little; that changes its rate a little.

Times are in s; ``now`` is robot time.
"""

from __future__ import annotations

import math

from aiofranka_ros.control.law.approach import LONGEST_GAP
from aiofranka_ros.control.law.memory import INTERVALS, KNOTS
from aiofranka_ros.control.law.vectors import median
from aiofranka_ros.control.records import Interpolation, TargetKind
from aiofranka_ros.kernels import Array, Record, kernel

#: Streams with a longer period are interpolated, with a shorter one extrapolated, unless the setting says otherwise.
_INTERPOLATE_ABOVE, _EXTRAPOLATE_BELOW = 0.030, 0.027
#: Slower streams are single targets [s].
_LONGEST_PERIOD = 1.0
#: Targets that differ by less than this are repetitions [m], [rad].
_SAME = 1e-6
#: A target that comes later than this many periods follows a gap; one that usually is repeated until the next comes is
#: known to be late before.
_GAP, _LATE = 1.5, 1.2
#: Intervals beyond this many times the median are pauses, not periods; below the other share, bursts. Of the first few
#: intervals, none is usual yet.
_PAUSE, _BURST = 2.3, 0.5
_FEW, _FIRST_PAUSE, _FIRST_BURST = 5, 4.0, 0.25
#: Targets were held back by the network if those after a pause take less than this share of their usual time, and were
#: not if so many of them did not.
_HASTY, _DECIDED = 0.75, 3
#: Of pauses and repetitions, this share is still remembered at the next knot; so many of them are a habit.
_FORGET, _PAUSES, _REPEATING = 0.98, 0.9, 0.01
#: The playhead slows down this long before the last knot [s]; with SERVO targets, which may be fast, more evenly.
_BRAKING, _SERVO_BRAKING = 0.03, 0.06
#: A target that is due sooner than this is due now [s]: the clocks of two computers differ.
SHORTEST_LEAD = 0.02
#: How late targets are expected to be, in periods, before it is known.
_FIRST_LATENESS = 0.2
#: In which time the playhead starts, unless the reference needs longer [s]; it does not need more than this share of
#: its acceleration then, so that it keeps up.
_RAMP, _RAMP_SHARE = 0.08, 0.7
#: At this rate it starts in a dense stream, as it may be but one step, which the reference meets at once.
_START = 0.1
#: In which time the playhead makes up for differences [s], and how much faster or slower it may be for that; if the
#: difference is large, it may be still faster, or wait.
_CORRECTION_TIME, _CORRECTION, _LARGE_CORRECTION = 0.3, 0.1, 0.12
#: The same in a dense stream that moved on while the reference could not: it is met again quickly. The last is when it
#: has been met [s].
_CATCHING_UP_TIME, _CATCHING_UP, _CATCHING_UP_RAMP, _MET = 0.05, 1.0, 0.03, 5e-3
#: So is one that is still so slow that the reference needs less than this time to be as fast [s]: that is not felt.
_AT_ONCE = 2.5e-3
#: Stamps closer together than this share of the time between the arrivals are ignored: the velocity would be too high
#: by the inverse of that share.
_STAMP_TRUST = 0.25
#: Targets closer together than this count as one target for the velocity [s].
_SHORTEST_GAP = 0.5e-3
#: The weight of the newest cosine in their average, and below which average targets are noise, above which a movement:
#: -0.5 is expected of independent noise, 1 of a movement without noise.
_NEW, _NOISE, _MOVEMENT = 0.0625, -0.2, 0.1


@kernel
def forget(memory: Record) -> None:
    """The next target begins a path; how often targets come is still known."""
    memory.target_count = memory.knots = memory.repeated = 0
    memory.playhead = 0.0
    memory.playhead_rate = memory.playhead_pace = 1.0
    memory.playhead_ramp = _RAMP
    memory.playhead_wait = 0.0
    memory.playhead_error = 0.0
    memory.catching_up = 0
    _rest(memory)


@kernel
def _rest(memory: Record) -> None:
    """Nothing moves, so there is nothing to extrapolate."""
    memory.path_speed = 0.0
    for j in range(3):
        memory.way_speed[j] = 0.0
        memory.steadiness[j] = _MOVEMENT


@kernel
def unlearn(memory: Record) -> None:
    """Another sender: forget its period, too."""
    memory.period = 0.0
    memory.intervals_seen = 0
    memory.held = 0.0
    memory.lateness = 0.0
    memory.interpolating = 0
    memory.pauses = memory.repeating = 0.0


@kernel
def newest(memory: Record) -> int:
    """Index of the newest knot, if there is one."""
    return (memory.knots - 1) % KNOTS


@kernel
def _braking(memory: Record) -> float:
    """How long before the last knot the playhead slows down [s]."""
    return _SERVO_BRAKING if memory.driving == TargetKind.SERVO else _BRAKING


@kernel
def delay(memory: Record) -> float:
    """How far the playhead is behind a knot that has just arrived [s]."""
    return memory.period + _braking(memory) + memory.lateness if memory.interpolating != 0 else 0.0


@kernel
def _count_pause(memory: Record) -> None:
    """The policy has paused before the newest target, if it seemed so."""
    memory.pauses += memory.gap_paused
    memory.gap_paused = 0


@kernel
def _is_pause(memory: Record, elapsed: float, count: float) -> bool:
    """Whether the time between two targets belongs to a pause, and says nothing of the period.

    If the targets after a pause come in haste, the network has held them back, until all have come. If the first ones
    come as usual, the policy has paused. If another one comes at once, targets come more slowly now.

    :param count: how many targets came in that time.
    """
    usual = count * memory.period
    if elapsed > _PAUSE * usual:
        again = memory.held > 0.0 and memory.held_targets == 0.0
        _count_pause(memory)
        memory.held = elapsed - usual
        memory.held_time = memory.held_targets = 0.0
        return not again
    if memory.held <= 0.0:
        return False
    memory.held -= usual - elapsed
    memory.held_targets += count
    memory.held_time += elapsed
    hasty = memory.held_time < _HASTY * memory.held_targets * memory.period
    if hasty:
        memory.gap_paused = 0
    elif memory.held_targets >= _DECIDED:
        _count_pause(memory)
        memory.held = 0.0
    if memory.held < 0.5 * memory.period:
        memory.held = 0.0
    return hasty


@kernel
def _learn(memory: Record, elapsed: float, count: float, stamped: bool) -> None:
    """Take the time between two targets into account for the period.

    :param count: how many targets came in that time.
    """
    if stamped or memory.period == 0.0:
        _count_pause(memory)
    elif _is_pause(memory, elapsed, count):
        return
    elapsed /= count
    if elapsed > _LONGEST_PERIOD:
        return
    memory.intervals[memory.intervals_seen % INTERVALS] = elapsed
    memory.intervals_seen += 1
    known = min(memory.intervals_seen, INTERVALS)
    ordered = memory.intervals_ordered
    for i in range(known):
        value, j = memory.intervals[i], i
        while j > 0 and ordered[j - 1] > value:
            ordered[j] = ordered[j - 1]
            j -= 1
        ordered[j] = value
    middle = ordered[(known - 1) // 2]
    total, used = 0.0, 0
    least, most = (_BURST, _PAUSE) if known >= _FEW else (_FIRST_BURST, _FIRST_PAUSE)
    for i in range(known):
        if least * middle <= ordered[i] <= most * middle:
            total += ordered[i]
            used += 1
    memory.period = total / used
    if memory.intervals_seen == 1:
        memory.lateness = _FIRST_LATENESS * memory.period


@kernel
def _choose(memory: Record, choice: int) -> None:
    if choice != Interpolation.AUTO:
        memory.interpolating = choice == Interpolation.INTERPOLATE
    elif memory.period > _INTERPOLATE_ABOVE or memory.pauses > _PAUSES:
        memory.interpolating = 1
    elif memory.period < _EXTRAPOLATE_BELOW and memory.pauses < 0.3 * _PAUSES:
        memory.interpolating = 0


@kernel
def is_repetition(memory: Record, way: float, now: float) -> bool:
    """Whether a target only repeats the one before: the policy is slower than the stream, or it stands still.

    :param way: how far it is from the one before [m] or [rad].
    """
    if memory.target_count == 0 or way > _SAME:
        return False
    if now - memory.target_seen > LONGEST_GAP:  # The stream begins with it: the next one is a period later.
        memory.knot_seen = now
    memory.target_seen = now
    memory.repeated = 1
    memory.repetitions += 1
    return True


@kernel
def stands(memory: Record, now: float) -> bool:
    """Whether the same target was repeated for longer than the period: no movement is to be extrapolated."""
    if memory.interpolating != 0:
        return False
    usual = memory.repeating >= _REPEATING
    standing = now - memory.knot_seen > (_LATE if usual else _GAP) * memory.period
    if standing or not usual:
        memory.playhead = memory.knot_time[newest(memory)]
        memory.playhead_error = 0.0
    if standing:
        _rest(memory)
    return standing


@kernel
def add_knot(memory: Record, commands: Record, way: float, now: float) -> float:
    """Give the newest target its place on the path, and the playhead its pace; the caller fills the knot.

    :param way: how far it is from the one before [m] or [rad].
    :returns: how long after the one before it is due [s]; 0: it begins a path.
    """
    step = 0.0
    memory.pauses *= _FORGET
    memory.repeating = _FORGET * memory.repeating + (1.0 - _FORGET) * memory.repeated
    lead = 1e-9 * commands.target_lead
    if lead < SHORTEST_LEAD:
        lead = 0.0
    if memory.target_count == 0 and lead > 0.0:
        # The way there begins where the reference is, which the caller has made knot 0.
        memory.knots, memory.knot_time[0], step = 1, 0.0, lead
    elif memory.target_count > 0:
        elapsed, stamped = now - memory.knot_seen, False
        by_stamp = 1e-9 * (commands.target_stamp - memory.target_stamp)
        if commands.target_stamp != 0 and memory.target_stamp != 0 and by_stamp < _LONGEST_PERIOD:
            # If stamps and arrivals differ by more than a late message explains, the stamps are not trusted. Those of
            # repetitions say when a target was sent, not when it was made.
            share = _STAMP_TRUST * elapsed if memory.period == 0.0 else min(_STAMP_TRUST * elapsed, 0.5 * memory.period)
            stamped = by_stamp > share and (lead > 0.0 or memory.repeating < _REPEATING)
        if stamped:
            elapsed = by_stamp
        period = memory.period
        # Of several that came within a cycle, the control process has only the last one.
        count = 1.0
        if memory.targets_passed > 1 and memory.path_speed > 0.0 and not stamped:
            count = min(max(way / (memory.path_speed * period), 1.0), memory.targets_passed)
        if elapsed >= _SHORTEST_GAP:
            _learn(memory, elapsed, count, stamped)
        period = period if period > 0.0 else memory.period
        if period > 0.0:
            step = elapsed if stamped else count * memory.period
            if elapsed > _GAP * period and lead == 0.0:
                step = memory.period
                if memory.path_speed > 0.0:
                    step = min(max(way / memory.path_speed, step), elapsed)
                if elapsed - step > _PAUSE * period and memory.repeated == 0:
                    memory.gap_paused = 1
                lost = step - (memory.targets_passed - 1) * period > _PAUSE * period
                memory.catching_up = memory.interpolating == 0 and lost
    if step == 0.0:
        forget(memory)
    servo = commands.target_kind == TargetKind.SERVO  # Must not run beyond its last target.
    _choose(memory, Interpolation.INTERPOLATE if servo else commands.interpolation)
    if step > 0.0:
        last = memory.knot_time[newest(memory)]
        if memory.path_speed == 0.0 and memory.playhead >= last:
            # There was nothing to extrapolate: it starts, as fast as the reference can, unless the time is given.
            memory.playhead = last
            if lead == 0.0:
                memory.playhead_pace = _START
        speeds = memory.way_speed
        speeds[memory.target_count % 3] = way / step
        memory.path_speed = median(speeds[0], speeds[1], speeds[2])
        _pace(memory, step, now - memory.knot_seen, lead)
    memory.repeated = 0
    memory.knot_seen = memory.target_seen = now
    memory.target_stamp = commands.target_stamp
    memory.knots += 1
    last = memory.knot_time[(memory.knots - 2) % KNOTS] if memory.knots > 1 else 0.0
    memory.knot_time[(memory.knots - 1) % KNOTS] = last + step
    memory.target_count += 1
    return step


@kernel
def leave_noise_out(velocity: Array, slopes: Array, slot: int, steadiness: Array) -> None:
    """Reduce ``velocity`` (n,), with which targets are extrapolated, as far as it is noise, which leads nowhere.

    From one target to the next, a movement hardly changes its direction; noise about a place turns back.

    :param slopes: the last three velocities between targets (3, n).
    :param slot: index of the newest one.
    :param steadiness: average of the cosine of the angle between one velocity and the next (1,).
    """
    newest, before = slopes[slot], slopes[(slot + 2) % 3]
    product = square = square_before = 0.0
    for i in range(len(velocity)):
        product += newest[i] * before[i]
        square += newest[i] ** 2
        square_before += before[i] ** 2
    if square > 0.0 and square_before > 0.0:
        steadiness[0] += _NEW * (product / math.sqrt(square * square_before) - steadiness[0])
    share = min(max((steadiness[0] - _NOISE) / (_MOVEMENT - _NOISE), 0.0), 1.0)
    for i in range(len(velocity)):
        velocity[i] *= share


@kernel
def leave_time(memory: Record, needed: float) -> None:
    """Leave the reference time to start.

    :param needed: how long it takes at its highest acceleration to be as fast as the targets [s].
    """
    memory.playhead_ramp = max(needed / _RAMP_SHARE, _RAMP)
    if needed < _AT_ONCE and memory.interpolating == 0 and memory.playhead_error > _MET:
        memory.catching_up = 1


@kernel
def _pace(memory: Record, step: float, elapsed: float, lead: float) -> None:
    """A knot arrives: compare the playhead with where it should be.

    :param step: how long after the one before it is due [s].
    :param elapsed: how long after the one before it came [s].
    :param lead: how long from now it is due [s]; 0: a usual target, which is due as soon as the playhead can be there.
    """
    last = memory.knot_time[newest(memory)]
    left = last - memory.playhead
    wanted = lead if lead > 0.0 else delay(memory)
    if memory.interpolating != 0 and lead == 0.0:
        if elapsed < _PAUSE * memory.period and memory.knots > 2:
            shortage = _braking(memory) - left + memory.playhead_braked
            memory.lateness = min(max(0.98 * memory.lateness, memory.lateness + shortage), memory.period)
        memory.playhead_braked = 0.0
    if memory.interpolating != 0 and -1e-3 < left < 0.2 * _braking(memory):
        # It rests: begin so that it will not have to wait for the next knot.
        memory.playhead = min(memory.playhead, last)
        memory.playhead_wait = max(wanted - (last - memory.playhead) - step - 0.5 * memory.playhead_ramp, 0.0)
        memory.playhead_error = memory.playhead_pace = 0.0
        return
    if left < 0.0:
        # The extrapolated target slows down after a while; the playhead did not.
        left = -memory.believed[0]
        memory.playhead = last - left
    error = left + step - wanted
    large = 2.0 * memory.period + 0.02
    if abs(error) > large or abs(memory.playhead_error) > large:
        memory.playhead_error = error
    else:
        memory.playhead_error += 0.25 * (error - memory.playhead_error)


@kernel
def advance(memory: Record, dt: float) -> None:
    """Move the playhead by one cycle."""
    if memory.knots == 0:
        return
    if memory.playhead_wait > 0.0:
        memory.playhead_wait -= dt
        memory.playhead_rate = 0.0
        return
    error = memory.playhead_error
    large = abs(error) > 2.0 * memory.period + 0.02
    if error < _MET:
        memory.catching_up = 0
    if memory.catching_up != 0:
        rate = 1.0 + min(error / _CATCHING_UP_TIME, _CATCHING_UP)
        change = dt / _CATCHING_UP_RAMP
    else:
        change = error / _CORRECTION_TIME
        change = min(max(change, -1.0 if large else -_CORRECTION), _LARGE_CORRECTION if large else _CORRECTION)
        rate = 1.0 + change
        change = dt / memory.playhead_ramp
    rate = min(max(rate, memory.playhead_pace - change), memory.playhead_pace + change)
    memory.playhead_pace = rate
    left = memory.knot_time[newest(memory)] - memory.playhead
    if memory.interpolating != 0 and left < _braking(memory):
        share = max(left / _braking(memory), 0.0)
        braked = rate * (share * (2.0 - share) if memory.driving == TargetKind.SERVO else share)
        memory.playhead_braked += (rate - braked) * dt
        rate = braked
    else:
        memory.playhead_error -= (rate - 1.0) * dt
    memory.playhead_rate = rate
    memory.playhead += rate * dt


@kernel
def locate(memory: Record, place: Array) -> int:
    """Find the segment of the path in which the playhead is: the index of its second knot, or -1 beyond the newest one.

    :param place: is filled with the share of the segment that has passed and the segment's duration [s]; beyond the
        newest knot, with the time since that knot [s] and 0.
    """
    k = newest(memory)
    beyond = memory.playhead - memory.knot_time[k]
    if beyond >= 0.0 or memory.knots == 1:
        place[0], place[1] = max(beyond, 0.0), 0.0
        return -1
    for back in range(min(memory.knots, KNOTS) - 1):
        k = (memory.knots - 1 - back) % KNOTS
        begin = memory.knot_time[(memory.knots - 2 - back) % KNOTS]
        if memory.playhead >= begin:
            break
    duration = memory.knot_time[k] - begin
    place[0] = max(memory.playhead - begin, 0.0) / duration if duration > 0.0 else 1.0
    place[1] = duration
    return k
