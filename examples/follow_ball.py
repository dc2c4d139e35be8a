"""What ``policy_process.py`` and ``policy_over_ros.py`` share: simulated cameras, and the loop around the policy.

The loop sends a target in every period, even if the policy has not answered. A chunk starts at the time of its
observation, so the loop picks the pose for the present time: with a slow policy the hand is less accurate, but never
late or jerky.
"""

import asyncio
from typing import Any

import numpy as np
from ball_policy import METRES_PER_PIXEL

from aiofranka_ros import FrankaController, asyncify

#: Targets per second [Hz].
RATE = 30.0
#: Distance of the ball from the middle of the picture [pixel], its radius [pixel], and its revolutions per second [Hz].
_ORBIT, _RADIUS, _FREQUENCY = 150.0, 25, 0.2
_GREYS = (20, 40, 60, 80)


class Cameras:
    """Four cameras that see a ball move in a circle; it starts and ends at rest in the middle of their pictures.

    :param begin: when the ball starts to move [s, time of the event loop].
    :param seconds: how long it moves [s].
    """

    def __init__(self, begin: float, seconds: float) -> None:
        self._begin = begin
        self._seconds = seconds

    def ball(self, now: float) -> np.ndarray:
        """Position of the ball: to the right and down [pixel] (2,)."""
        elapsed = now - self._begin
        share = np.clip(min(elapsed, self._seconds - elapsed) / 2.0, 0.0, 1.0)
        angle = 2.0 * np.pi * _FREQUENCY * elapsed
        return _ORBIT * share * share * (3.0 - 2.0 * share) * np.array([np.cos(angle), np.sin(angle)])

    @asyncify  # Reading real cameras blocks.
    def read(self, now: float) -> dict[str, Any]:
        """An observation: ``images``, uint8 arrays (480, 640, 3), and ``time``, when they were taken [s]."""
        right, down = np.rint(self.ball(now)).astype(int) + (320, 240)
        y, x = np.ogrid[-_RADIUS : _RADIUS + 1, -_RADIUS : _RADIUS + 1]
        disc = x * x + y * y <= _RADIUS * _RADIUS
        images = [np.full((480, 640, 3), grey, np.uint8) for grey in _GREYS]
        for image in images:
            image[down - _RADIUS : down + _RADIUS + 1, right - _RADIUS : right + _RADIUS + 1][disc] = (230, 30, 30)
        return {"images": images, "time": now}


async def follow(controller: FrankaController, policy: Any, seconds: float) -> str:
    """Make the hand follow the ball; returns how well it did.

    :param policy: an ``mpify`` proxy of a :class:`~ball_policy.BallPolicy`.
    :param seconds: how long, at least 4 [s].
    """
    loop = asyncio.get_running_loop()
    controller.switch("osc")
    controller.set_freq(RATE)
    await policy.reset(controller.initial_ee)
    begin = loop.time()
    cameras = Cameras(begin, seconds)

    async def think() -> tuple[float, float, np.ndarray]:
        """When the pictures were taken, when their chunk arrived [s], and the chunk."""
        taken = loop.time()
        chunk = await policy.get_chunk(await cameras.read(taken))
        return taken, loop.time(), chunk

    taken, _, chunk = await think()
    thought = asyncio.ensure_future(think())
    delays, errors = [], []
    try:
        while (now := loop.time()) < begin + seconds:
            if thought.done():
                taken, there, chunk = thought.result()
                delays.append(there - taken)
                thought = asyncio.ensure_future(think())
            present = round((now - taken) * RATE)
            await controller.set("ee_desired", chunk[min(present, len(chunk) - 1)])
            away = controller.state["ee"][1:3, 3] - controller.initial_ee[1:3, 3]
            errors.append(np.linalg.norm(away + METRES_PER_PIXEL * cameras.ball(loop.time())))
    finally:
        thought.cancel()
    rms = np.sqrt(np.mean(np.square(errors)))
    return (
        f"{len(errors)} targets at {len(errors) / (loop.time() - begin):.1f} Hz, {len(delays)} chunks; "
        f"from pictures to chunk {1e3 * np.median(delays):.0f} ms (median), {1e3 * max(delays):.0f} ms (longest); "
        f"{1e3 * rms:.1f} mm from the ball (rms), which moved {1e3 * METRES_PER_PIXEL * _ORBIT:.0f} mm wide"
    )
