"""A policy that plans in chunks, in a separate process: it takes 0.15 s for each, and still the arm moves evenly.

You see the hand follow a ball, seen by four simulated cameras, on a circle of 3 cm radius around where it was. Each
chunk is a second of poses that begins with the time of its pictures; ``controller.policy`` asks for the next one in
time. At the end, three lines report how the policy did, how far the hand was from the ball, and how well the control
loop ran.

    python examples/chunked_policy.py                        # a simulated arm
    python examples/chunked_policy.py --robot 172.16.0.2     # a real one: keep the emergency stop in your hand
    python examples/chunked_policy.py --think 0.4            # a slower policy: less accurate, but as even

``policy_process.py`` does the same without ``controller.policy``. Ctrl-C stops the arm and releases it.
"""

import argparse
import asyncio
import sys
from typing import Any

import numpy as np
from ball_policy import METRES_PER_PIXEL, BallPolicy
from follow_ball import RATE, Cameras

from aiofranka_ros import FrankaController, RobotInterface, mpify
from aiofranka_ros.errors import FrankaError

#: Actions of a chunk.
HORIZON = 30


async def follow(controller: FrankaController, policy: Any, seconds: float) -> str:
    """Let the hand follow the ball; returns how well it did.

    :param policy: an ``mpify`` proxy of a :class:`~ball_policy.BallPolicy`.
    """
    loop = asyncio.get_running_loop()
    await policy.reset(controller.initial_ee)
    begin = loop.time()
    cameras = Cameras(begin, seconds)
    errors: list[float] = []

    async def observe() -> dict[str, Any]:
        return await cameras.read(loop.time())

    async def infer(observation: dict[str, Any], prefix: np.ndarray, delay: int) -> np.ndarray:
        # Only what the policy needs: everything else would be sent to its process, too.
        return await policy.get_chunk({"images": observation["images"], "time": observation["time"]})

    def is_over(state: dict[str, Any]) -> bool:
        away = state["ee"][1:3, 3] - controller.initial_ee[1:3, 3]
        errors.append(float(np.linalg.norm(away + METRES_PER_PIXEL * cameras.ball(loop.time()))))
        return loop.time() > begin + seconds

    async with controller.policy(infer, dt=1.0 / RATE, horizon=HORIZON, overlap=0.6, observe=observe) as run:
        await run.until(is_over)
    rms = np.sqrt(np.mean(np.square(errors)))
    return f"{run.report()}\n{1e3 * rms:.1f} mm from the ball (rms)"


async def main(robot: str, seconds: float, think: float) -> None:
    """Follow the ball with the arm at ``robot``, and watch its control loop."""
    # The policy first: it may take long to load, and the arm should not be active while you wait.
    async with (
        await mpify.create(BallPolicy, period=1.0 / RATE, length=HORIZON, think=think) as policy,
        FrankaController(RobotInterface(robot, mode="osc")) as controller,
    ):
        run, connection = await asyncio.gather(follow(controller, policy, seconds), controller.test_connection(seconds))
        print(run)
        print(connection)


if __name__ == "__main__":  # Needed by mpify: the policy's process imports this script.
    parser = argparse.ArgumentParser(description="Follow a ball with the hand, by a slow policy that plans in chunks.")
    parser.add_argument(
        "--robot", default="sim", metavar="ADDRESS", help="address of the robot; sim: a simulated one [%(default)s]"
    )
    parser.add_argument("--seconds", type=float, default=10.0, help="how long to follow, at least 4 [%(default)s]")
    parser.add_argument(
        "--think", type=float, default=0.15, metavar="SECONDS", help="how long each chunk takes [%(default)s]"
    )
    arguments = parser.parse_args()
    try:
        asyncio.run(main(arguments.robot, arguments.seconds, arguments.think))
    except KeyboardInterrupt:
        sys.exit(130)  # Nothing else to do: `async with` has released the arm and ended the policy.
    except FrankaError as error:
        sys.exit(f"{type(error).__name__}: {error}")
