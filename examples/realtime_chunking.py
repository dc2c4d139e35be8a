"""Real-time chunking: a policy continues what the arm does while it thinks, instead of changing its mind.

You see joints 1 and 4 draw a circle of 0.1 rad radius. The policy was shown both directions, and a single position
does not say in which one the arm moves. So without the prefix, some chunks turn the arm around; with it, none does. The
script does both, one after the other; a line for each says how often the direction changed, and a last one how well the
control loop ran.

    python examples/realtime_chunking.py                        # a simulated arm
    python examples/realtime_chunking.py --robot 172.16.0.2     # a real one: keep the emergency stop in your hand

The policy is a flow-matching policy as large ones are, only that its velocity field is not a network: for a few hundred
demonstrations, the field that training would lead to is known. Ctrl-C stops the arm and releases it.
"""

import argparse
import asyncio
import sys
import time
from typing import Any

import numpy as np

from aiofranka_ros import FrankaController, RobotInterface
from aiofranka_ros.errors import FrankaError

#: Actions per second [Hz] and in a chunk; radius of the circle [rad] and revolutions per second [Hz].
RATE, HORIZON = 30.0, 30
RADIUS, FREQUENCY = 0.1, 0.25
#: Joints that draw the circle.
PLANE = (0, 3)
#: Steps of the denoising, and how far what was shown may be from what is known and still count, as a share of the
#: radius.
STEPS, NEAR = 10, 0.07


class FlowPolicy:
    """Draws a circle in one direction or the other, by flow matching.

    :param center: middle of the circle [rad] (7,).
    :param think: how long it pretends to compute each chunk [s].
    :param inpaint: whether it makes chunks that continue the prefix.
    """

    def __init__(self, center: np.ndarray, think: float, inpaint: bool) -> None:
        self._center = center
        self._think = think
        self._inpaint = inpaint
        self._random = np.random.default_rng(0)
        begin = np.linspace(0.0, 2.0 * np.pi, 180, endpoint=False)[:, None]
        turn = 2.0 * np.pi * FREQUENCY / RATE * np.arange(HORIZON)
        angles = np.concatenate((begin + turn, begin - turn))
        #: Chunks to learn from, of the joints that draw, as shares of the radius (n, HORIZON, 2).
        self._shown = np.stack((np.cos(angles), np.sin(angles)), axis=-1)
        #: Direction of the last chunk, and how often it changed.
        self.direction, self.changes = 0.0, -1

    def get_chunk(self, observation: dict[str, Any], prefix: np.ndarray, delay: int) -> np.ndarray:
        """The next joint positions [rad] (HORIZON, 7); the first one is for the time of the observation.

        :param observation: ``qpos`` [rad] (7,).
        :param prefix: what the arm does from now on, unless another chunk comes [rad] (m, 7).
        :param delay: how many rows of it will be done when this chunk arrives.
        """
        time.sleep(self._think)
        fixed = prefix[:delay] if self._inpaint else prefix[:0]
        drawn = self._denoise(self._shares(observation["qpos"]), self._shares(fixed))
        (x, y), (dx, dy) = drawn[-1], drawn[-1] - drawn[-2]
        before, self.direction = self.direction, np.sign(x * dy - y * dx)
        self.changes += self.direction != before
        chunk = np.repeat(self._center[None], HORIZON, axis=0)
        chunk[:, PLANE] += RADIUS * drawn
        return chunk

    def _shares(self, joints: np.ndarray) -> np.ndarray:
        """Positions [rad] (..., 7) of the joints that draw, as shares of the radius (..., 2)."""
        return (joints - self._center)[..., PLANE] / RADIUS

    def _denoise(self, here: np.ndarray, fixed: np.ndarray) -> np.ndarray:
        """What the joints should draw, as shares of the radius (HORIZON, 2).

        Inpainting: the first rows are given, without noise, and the flow makes the others fit to them. A network learns
        that if it is trained with a few first rows free of noise.

        :param here: where the arm is (2,).
        :param fixed: the first rows (d, 2).
        """
        first, rest = self._shown[:, : len(fixed)], self._shown[:, len(fixed) :]
        # How well what was shown fits to what is known; then it is only a question of the noise.
        known = ((self._shown[:, 0] - here) ** 2).sum(axis=1) + ((first - fixed) ** 2).sum(axis=(1, 2))
        chunk = self._random.standard_normal((HORIZON - len(fixed), 2))
        for t in np.arange(STEPS) / STEPS:
            # The field leads to the mean of what was shown, each by how likely it is behind this noise.
            score = -0.5 * known / NEAR**2 - 0.5 * ((chunk - t * rest) ** 2).sum(axis=(1, 2)) / (1.0 - t) ** 2
            share = np.exp(score - score.max())
            goal = np.tensordot(share / share.sum(), rest, axes=1)
            chunk = chunk + (goal - chunk) / (1.0 - t) / STEPS
        return np.concatenate((fixed, chunk))


async def draw(controller: FrankaController, seconds: float, think: float, inpaint: bool) -> str:
    """Draw circles for some seconds; returns how well it went."""
    center = controller.state["qpos"]
    center[PLANE[0]] -= RADIUS  # The arm is on the circle already.
    policy = FlowPolicy(center, think, inpaint)
    away: list[float] = []
    end = asyncio.get_running_loop().time() + seconds

    def is_over(state: dict[str, Any]) -> bool:
        away.append(float(np.linalg.norm((state["qpos"] - center)[list(PLANE)])) - RADIUS)
        return asyncio.get_running_loop().time() > end

    async with controller.policy(policy.get_chunk, dt=1.0 / RATE, horizon=HORIZON, overlap=0.5) as run:
        await run.until(is_over)
    return (
        f"{'with' if inpaint else 'without'} the prefix: {policy.changes} changes of direction, "
        f"{1e3 * np.sqrt(np.mean(np.square(away))):.0f} mrad from the circle (rms); {run.report()}"
    )


async def main(robot: str, seconds: float, think: float) -> None:
    """Draw with the arm at ``robot``, first without the prefix, then with it, and watch its control loop."""
    async with FrankaController(RobotInterface(robot, mode="impedance")) as controller:
        start = controller.state["qpos"]

        async def draw_twice() -> None:
            for inpaint in (False, True):
                print(await draw(controller, seconds, think, inpaint))
                await controller.move(start)

        _, connection = await asyncio.gather(draw_twice(), controller.test_connection(2.0 * seconds))
        print(connection)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Draw circles by a policy that plans in chunks, in real time.")
    parser.add_argument(
        "--robot", default="sim", metavar="ADDRESS", help="address of the robot; sim: a simulated one [%(default)s]"
    )
    parser.add_argument("--seconds", type=float, default=6.0, help="how long to draw, each time [%(default)s]")
    parser.add_argument(
        "--think", type=float, default=0.15, metavar="SECONDS", help="how long each chunk takes [%(default)s]"
    )
    arguments = parser.parse_args()
    try:
        asyncio.run(main(arguments.robot, arguments.seconds, arguments.think))
    except KeyboardInterrupt:
        sys.exit(130)  # Nothing else to do: `async with` has released the arm.
    except FrankaError as error:
        sys.exit(f"{type(error).__name__}: {error}")
