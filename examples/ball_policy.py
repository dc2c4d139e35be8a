"""A policy that needs only numpy: it sees a ball in four pictures and makes the hand follow it.

It replaces a learned policy and has the same interface: an observation of 3.7 MB goes in, a chunk of the next poses
comes out. ``policy_process.py`` and ``policy_over_ros.py`` run it in a separate process, which imports this module.
"""

import time
from typing import Any

import numpy as np

#: How far the hand moves for each pixel [m].
METRES_PER_PIXEL = 2e-4
#: Over which time the ball's velocity is estimated [s].
_SMOOTHING = 0.1


class BallPolicy:
    """Moves the hand after a red ball, in the y-z plane of the base.

    :param period: time from one pose of a chunk to the next [s].
    :param length: poses in a chunk.
    :param think: how long it pretends to compute each chunk [s].
    """

    def __init__(self, period: float, length: int = 8, think: float = 0.0) -> None:
        self._ahead = period * np.arange(length)
        self._think = think
        self.reset(np.eye(4))

    def reset(self, initial_ee: np.ndarray) -> None:
        """Begin a new episode.

        :param initial_ee: pose of the hand in the base (4, 4) for a ball in the middle of the pictures.
        """
        self._initial_ee = initial_ee
        self._last: tuple[float, np.ndarray] | None = None
        self._velocity = np.zeros(2)

    def get_chunk(self, observation: dict[str, Any]) -> np.ndarray:
        """The next poses of the hand (length, 4, 4); the first one is for the time of the observation.

        :param observation: ``images``, a list of uint8 arrays (480, 640, 3), and ``time``, when they were taken [s].
        :raises LookupError: none of the images shows the ball.
        """
        time.sleep(self._think)
        now, ball = observation["time"], np.mean([_find(image) for image in observation["images"]], axis=0)
        if self._last is not None and now > self._last[0]:
            measured = (ball - self._last[1]) / (now - self._last[0])
            self._velocity += -np.expm1((self._last[0] - now) / _SMOOTHING) * (measured - self._velocity)
        self._last = now, ball
        chunk = np.repeat(self._initial_ee[None], len(self._ahead), axis=0)
        # Right in the picture is -y of the base, down is -z.
        chunk[:, 1:3, 3] -= METRES_PER_PIXEL * (ball + self._ahead[:, None] * self._velocity)
        return chunk


def _find(image: np.ndarray) -> np.ndarray:
    """How far the ball is from the middle of the image, to the right and down [pixel] (2,)."""
    red = image[::2, ::2, 0].astype(int) - image[::2, ::2, 1]
    rows, columns = np.nonzero(red > 100)
    if not len(rows):
        raise LookupError("there is no ball in the image")
    height, width, _ = image.shape
    return np.array([2.0 * columns.mean() - width / 2, 2.0 * rows.mean() - height / 2])
