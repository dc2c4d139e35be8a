"""A policy on an openpi server, such as pi0.5-DROID: observations go there, chunks of joint velocities come back.

By default the server is a small one in this script, whose policy waves: you see joint 1 and joint 6 sway by 0.1 rad. At
the end, three lines report the server, how long its answers took, and how well the control loop ran.

    pip install "aiofranka_ros[openpi]"                             # or: pip install websockets msgpack
    python examples/openpi_policy.py                                # a simulated arm, the small server
    python examples/openpi_policy.py --server ws://10.0.0.7:8000    # openpi's scripts/serve_policy.py --env DROID
    python examples/openpi_policy.py --robot 172.16.0.2             # a real arm: keep the emergency stop in your hand

With a real policy, replace the images in ``observe`` with those of your cameras, and give a ``--prompt``. What an
action is depends on what a policy was trained with; DROID: 15 rows a second of seven joint velocities, 1 being 0.2 rad
in a row, and the gripper, 1 being closed, which this script leaves out. Ctrl-C stops the arm and releases it.
"""

import argparse
import asyncio
import contextlib
import functools
import math
import sys
import traceback
from collections.abc import AsyncIterator
from typing import Any

import numpy as np

from aiofranka_ros import FrankaController, RobotInterface
from aiofranka_ros.errors import FrankaError

#: Time from one action to the next [s]; joint velocity of an action of 1 [rad/s]: DROID's.
DT, FULL_SPEED = 1.0 / 15.0, 0.2 * 15.0
#: Actions of a chunk that are done at most; openpi's own client does 8 of DROID's.
HORIZON = 10


# --- The protocol: one websocket; the server first sends a description of itself, then an answer to each observation.
# All are msgpack, in which an array is a map of its bytes, type and shape. A text is the server's traceback.


def _packed_array(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return {b"__ndarray__": True, b"data": value.tobytes(), b"dtype": value.dtype.str, b"shape": value.shape}
    if isinstance(value, np.generic):
        return {b"__npgeneric__": True, b"data": value.item(), b"dtype": value.dtype.str}
    raise TypeError(f"{type(value).__name__} cannot be sent to an openpi server")


def _unpacked_array(value: dict[Any, Any]) -> Any:
    if b"__ndarray__" in value:
        return np.frombuffer(value[b"data"], np.dtype(value[b"dtype"])).reshape(value[b"shape"])
    if b"__npgeneric__" in value:
        return np.dtype(value[b"dtype"]).type(value[b"data"])
    return value


def pack(value: Any) -> bytes:
    """A message of ``value``, which may have arrays in it."""
    return msgpack.packb(value, default=_packed_array)


def unpack(message: bytes) -> Any:
    """What was packed into ``message``."""
    return msgpack.unpackb(message, object_hook=_unpacked_array)


class PolicyServer:
    """A client of an openpi server.

    :param socket: its connection.
    :param metadata: what the server said of itself.
    """

    def __init__(self, socket: Any, metadata: dict[str, Any]) -> None:
        self._socket = socket
        self.metadata = metadata

    @classmethod
    @contextlib.asynccontextmanager
    async def connect(cls, address: str) -> AsyncIterator["PolicyServer"]:
        """The server at ``address``, e.g. ``ws://127.0.0.1:8000``, inside of an ``async with`` block."""
        async with websockets.asyncio.client.connect(address, compression=None, max_size=None) as socket:
            yield cls(socket, unpack(await socket.recv()))

    async def infer(self, observation: dict[str, Any]) -> dict[str, Any]:
        """The server's answer; ``actions`` are the next ones, one row each.

        :raises RuntimeError: the server failed; with its traceback.
        """
        await self._socket.send(pack(observation))
        answer = await self._socket.recv()
        if isinstance(answer, str):
            raise RuntimeError(f"the policy server failed:\n{answer}")
        return unpack(answer)


# --- The small server


async def wave(socket: Any, think: float) -> None:
    """Serve one client as openpi's server does, with a policy that waves and takes ``think`` [s] for each answer."""
    loop, period = asyncio.get_running_loop(), 4.0
    begin = loop.time()
    await socket.send(pack({"policy": "a small one that waves"}))
    async for message in socket:
        try:
            observation = unpack(message)
            assert observation["observation/exterior_image_1_left"].shape == (224, 224, 3)
            times = loop.time() - begin + DT * np.arange(15)
            actions = np.zeros((15, 8))
            await asyncio.sleep(think)
            # The derivative of a sway of 0.1 rad, as a share of the full speed.
            sway = 0.1 * (2.0 * math.pi / period) * np.cos(2.0 * math.pi * times / period) / FULL_SPEED
            actions[:, 0], actions[:, 5] = sway, sway
            await socket.send(pack({"actions": actions}))
        except Exception:
            await socket.send(traceback.format_exc())
            raise


# --- The arm


async def main(robot: str, server: str | None, seconds: float, prompt: str, think: float) -> None:
    """Let the policy of ``server`` drive the arm at ``robot``."""
    async with contextlib.AsyncExitStack() as stack:
        if server is None:
            serve = websockets.asyncio.server.serve
            handler = functools.partial(wave, think=think)
            small = await stack.enter_async_context(serve(handler, "127.0.0.1", 0, compression=None, max_size=None))
            server = f"ws://127.0.0.1:{small.sockets[0].getsockname()[1]}"
        # The server first: the arm should not be active while you wait for it.
        policy = await stack.enter_async_context(PolicyServer.connect(server))
        print(f"connected to {server}: {policy.metadata}")
        controller = await stack.enter_async_context(FrankaController(RobotInterface(robot, mode="impedance")))

        async def observe() -> dict[str, Any]:
            picture = np.zeros((224, 224, 3), np.uint8)  # Replace it with those of your cameras, scaled to this size.
            return {"exterior": picture, "wrist": picture}

        async def infer(observation: dict[str, Any], prefix: np.ndarray, delay: int) -> np.ndarray:
            answer = await policy.infer(
                {
                    "observation/exterior_image_1_left": observation["exterior"],
                    "observation/wrist_image_left": observation["wrist"],
                    "observation/joint_position": observation["qpos"],
                    "observation/gripper_position": np.zeros(1),
                    "prompt": prompt,
                }
            )
            return FULL_SPEED * np.clip(answer["actions"][:, :7], -1.0, 1.0)

        async def drive() -> str:
            moved = np.zeros(7)
            end = asyncio.get_running_loop().time() + seconds

            def is_over(state: dict[str, Any]) -> bool:
                np.maximum(moved, np.abs(state["qpos"] - controller.initial_qpos), out=moved)
                return asyncio.get_running_loop().time() > end

            async with controller.policy(infer, dt=DT, horizon=HORIZON, overlap=0.5, kind="dq", observe=observe) as run:
                await run.until(is_over)
            return f"{run.report()}; the joints moved by up to {moved.max():.2f} rad"

        done, connection = await asyncio.gather(drive(), controller.test_connection(seconds))
        print(done)
        print(connection)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Let a policy on an openpi server drive an arm.")
    parser.add_argument(
        "--robot", default="sim", metavar="ADDRESS", help="address of the robot; sim: a simulated one [%(default)s]"
    )
    parser.add_argument("--server", metavar="URL", help="address of the server; default: a small one in this script")
    parser.add_argument("--seconds", type=float, default=8.0, help="how long to drive [%(default)s]")
    parser.add_argument("--prompt", default="wave", metavar="TEXT", help="what the policy is told to do [%(default)s]")
    parser.add_argument(
        "--think", type=float, default=0.1, metavar="SECONDS", help="how long the small server takes [%(default)s]"
    )
    arguments = parser.parse_args()
    try:
        import msgpack
        import websockets.asyncio.client
        import websockets.asyncio.server
    except ImportError as error:
        sys.exit(f'{error.name} is missing: pip install "aiofranka_ros[openpi]", or pip install websockets msgpack')
    try:
        asyncio.run(main(arguments.robot, arguments.server, arguments.seconds, arguments.prompt, arguments.think))
    except KeyboardInterrupt:
        sys.exit(130)  # Nothing else to do: `async with` has released the arm.
    except FrankaError as error:
        sys.exit(f"{type(error).__name__}: {error}")
    except (OSError, websockets.exceptions.WebSocketException) as error:
        sys.exit(f"no openpi server answers at {arguments.server}: {error}")
