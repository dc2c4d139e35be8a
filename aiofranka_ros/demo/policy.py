"""The demo's policy: it draws a circle while it blocks its own interpreter for 300 ms of every second.

Started by :mod:`aiofranka_ros.demo` as a separate process with one thread. Like a learned policy, it is an ordinary
client of the node that publishes targets at 50 Hz, and sometimes none because it is busy: a loop keeps the
interpreter's lock and uses a core. It skips the targets of that time: the next one is where the circle is then.

The circle begins at the measured pose, at zero speed. The speed rises during the first second and falls during the last
one, as a sane policy's does: no arm can follow a target that starts at full speed.
"""

from __future__ import annotations

import argparse
import json
import math
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from aiofranka_ros.kernels import Array
from aiofranka_ros.testing import Client, Failed

#: Targets per second [Hz].
RATE = 50.0
#: The interpreter is blocked between these times of every second [s].
BLOCKED = (0.5, 0.8)
#: How long the circle takes to reach full speed, and to stop [s]; less for a short circle.
RAMP = 1.0
#: How long to wait until the arm is active [s]: its node may have to compile its kernels first.
_TIMEOUT = 180.0


@dataclass(frozen=True)
class Circle:
    """A circle in the y-z plane of the base, as a function of time.

    :ivar start: where it begins [m] (3,), in the base frame.
    :ivar frequency: turns per second at full speed.
    """

    start: tuple[float, float, float]
    start_time: int  # [ns, system clock]
    duration: float  # [s]
    radius: float = 0.05  # [m]
    frequency: float = 0.25  # [Hz]

    @property
    def ramp(self) -> float:
        """How long the speed takes to rise, and to fall again [s]."""
        return min(RAMP, 0.25 * self.duration)

    def angle(self, elapsed: Array) -> Array:
        """The angle [rad] (n,) after ``elapsed`` [s] (n,); constant before the beginning and after the end.

        The speed is a smoothstep (3u² − 2u³) of the time since the beginning, and of the time until the end.
        """
        time = np.clip(elapsed, 0.0, self.duration)
        begin = np.clip(time / self.ramp, 0.0, 1.0)
        end = np.clip((self.duration - time) / self.ramp, 0.0, 1.0)
        # Integral of the smoothstep, u³ − u⁴/2, is 1/2 at the end of a ramp.
        turned = self.ramp * (begin**3 - 0.5 * begin**4)
        turned += np.clip(time - self.ramp, 0.0, self.duration - 2.0 * self.ramp)
        turned += self.ramp * (0.5 - (end**3 - 0.5 * end**4))
        return 2.0 * math.pi * self.frequency * turned

    def position(self, stamps: npt.NDArray[np.int64] | Sequence[int]) -> Array:
        """The position [m] (n, 3) in the base frame at ``stamps`` [ns, system clock] (n,)."""
        # Subtract as integers: as floats, nanoseconds since 1970 are rounded to a quarter of a µs.
        elapsed = 1e-9 * (np.asarray(stamps, dtype=np.int64) - self.start_time)
        angle = self.angle(elapsed)
        offset = np.stack([np.zeros_like(angle), 1.0 - np.cos(angle), np.sin(angle)], axis=-1)
        return np.asarray(self.start) + self.radius * offset


def draw(client: Client, duration: float) -> tuple[Circle, list[int]]:
    """Publish targets for ``duration`` [s], once the arm is active.

    :returns: the circle, and the stamps of the published targets [ns, system clock].
    :raises Failed: the node is not active, publishes no pose, or does not subscribe to targets.
    """
    client.wait(lambda: client.state_or_none() == "active", f"{client.name} is not active", _TIMEOUT)
    publisher = client.publishers["ee_desired"]
    client.wait(publisher.get_subscription_count, f"{client.name} does not subscribe to {client.name}/ee_desired")
    target = client.pose
    where = target.pose.position
    stamps: list[int] = []
    circle = Circle((where.x, where.y, where.z), time.time_ns(), duration)
    begin = time.perf_counter()
    for tick in range(math.floor(duration * RATE) + 1):
        due = tick / RATE
        if due % 1.0 >= BLOCKED[0]:
            while time.perf_counter() < begin + math.floor(due) + BLOCKED[1]:
                pass
        if time.perf_counter() > begin + due + 1.0 / RATE:
            continue
        # Like a policy: first compute the target, which takes a while, then publish it in time.
        where.x, where.y, where.z = circle.position([circle.start_time + round(1e9 * due)])[0].tolist()
        time.sleep(max(0.0, begin + due - time.perf_counter()))
        stamps.append(time.time_ns())
        target.header.stamp.sec, target.header.stamp.nanosec = divmod(stamps[-1], 1_000_000_000)
        publisher.publish(target)
    return circle, stamps


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw a circle.

    :returns: exit status: 0 if it was drawn, 1 if the robot's node is not active.
    """
    parser = argparse.ArgumentParser(
        prog="python -m aiofranka_ros.demo.policy",
        description="Publish a circle as targets for a running node, with gaps, like a busy policy. The arm moves.",
    )
    parser.add_argument("--duration", type=float, default=10.0, metavar="S", help="how long to draw [%(default)s s]")
    parser.add_argument("--robot", default="/aiofranka", help="full name of the robot's node [%(default)s]")
    parser.add_argument("--report", type=Path, help="write the circle and the targets' stamps to this JSON file")
    options = parser.parse_args(arguments)
    # The default action, because a busy loop must not delay Ctrl-C and there is nothing to clean up.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        with Client(options.robot) as client:
            circle, stamps = draw(client, options.duration)
    except Failed as error:
        sys.stderr.write(f"{error}\n")
        return 1
    if options.report is not None:
        options.report.write_text(json.dumps({"circle": asdict(circle), "stamps": stamps}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
