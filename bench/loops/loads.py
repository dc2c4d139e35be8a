"""The loads under which the loops are measured: they keep a policy's process busy.

Imported by the processes of all subjects, each in its own environment, so it uses only numpy and the standard library,
and rclpy if ROS is the load. A load runs in the policy's process, as it does in practice; only ``cores`` runs in
separate processes. A load runs on all processors, even if the policy does not.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import mmap
import os
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator

import numpy as np

#: The loads and their descriptions; the first one is no load.
LOADS = {
    "idle": "only the policy",
    "blocked": "the event loop blocked for 300 ms every second",
    "gil": "a thread that holds the interpreter's lock for 20 ms at a time",
    "spinning": "four spinning Python threads",
    "blas": "matrix products on 20 threads",
    "garbage": "garbage collections over 3 million objects",
    "topics": "1 kHz of ROS messages into the process",
    "fork": "forks of the process, which has 4 GB",
    "cores": "all cores busy at nice 19",
}
_GIL = 0.02
_BLOCK, _BLOCK_PERIOD = 0.3, 1.0
_OBJECTS = 3_000_000
_FORK_SIZE = 4 << 30


@contextlib.asynccontextmanager
async def load(name: str) -> AsyncIterator[None]:
    """Run the load inside this context; entering it includes all preparation."""
    if name == "blocked":
        task = asyncio.ensure_future(_block())
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        return
    with contextlib.ExitStack() as stack:
        with _on_all_processors():  # Inherited by threads and processes.
            stack.enter_context(_CONTEXTS.get(name, contextlib.nullcontext)())
        yield


@contextlib.contextmanager
def _on_all_processors() -> Iterator[None]:
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, range(os.cpu_count() or 1))
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


async def _block() -> None:
    while True:
        await asyncio.sleep(_BLOCK_PERIOD - _BLOCK)
        time.sleep(_BLOCK)


@contextlib.contextmanager
def _threads(work: Callable[[], None], count: int = 1) -> Iterator[None]:
    """Repeat ``work`` in ``count`` threads."""
    stop = threading.Event()

    def run() -> None:
        while not stop.is_set():
            work()

    threads = [threading.Thread(target=run, name="load", daemon=True) for _ in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def _hold_gil() -> None:
    ctypes.PyDLL(None).usleep(int(1e6 * _GIL))  # PyDLL keeps the lock during the call.
    time.sleep(_GIL)


def _spin() -> None:
    for _ in range(10_000):
        pass


def _multiply() -> contextlib.AbstractContextManager[None]:
    # The library chooses the number of threads from the environment, which the runner sets.
    left = np.random.default_rng(0).random((1500, 1500))
    out = np.empty_like(left)
    return _threads(lambda: np.matmul(left, left, out=out) and None)


@contextlib.contextmanager
def _collect() -> Iterator[None]:
    objects = [[] for _ in range(_OBJECTS)]

    def work() -> None:
        gc.collect()
        time.sleep(0.05)

    with _threads(work):
        yield
    del objects


@contextlib.contextmanager
def _receive() -> Iterator[None]:
    import rclpy
    from rclpy.executors import SingleThreadedExecutor
    from rclpy.node import Node
    from std_msgs.msg import Float64MultiArray

    context = rclpy.Context()
    rclpy.init(context=context, args=[])
    node = Node(f"load_{os.getpid()}", context=context)
    topic = f"/load_{os.getpid()}"
    received = [0]

    def take(message: Float64MultiArray) -> None:
        received[0] += 1

    node.create_subscription(Float64MultiArray, topic, take, 10)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)
    publisher = subprocess.Popen([sys.executable, __file__, topic], stdin=subprocess.DEVNULL)
    try:
        with _threads(lambda: executor.spin_once(timeout_sec=0.1)):
            deadline = time.monotonic() + 20.0
            while received[0] == 0:
                if time.monotonic() > deadline:
                    raise RuntimeError("no message arrived")
                time.sleep(0.05)
            yield
    finally:
        publisher.terminate()
        publisher.wait()
        executor.shutdown()
        node.destroy_node()
        rclpy.shutdown(context=context)


@contextlib.contextmanager
def _fork() -> Iterator[None]:
    # Not from an allocator, which might use larger pages than a program usually has.
    memory = mmap.mmap(-1, _FORK_SIZE)
    memory.madvise(mmap.MADV_NOHUGEPAGE)
    for offset in range(0, _FORK_SIZE, mmap.PAGESIZE):
        memory[offset] = 1

    def work() -> None:
        child = os.fork()
        if child == 0:
            os._exit(0)
        os.waitpid(child, 0)
        time.sleep(0.5)

    try:
        with _threads(work):
            yield
    finally:
        memory.close()


@contextlib.contextmanager
def _occupy() -> Iterator[None]:
    script = "import os; os.nice(19); parent = os.getppid()\nwhile os.getppid() == parent: sum(range(10000))"
    processes = [
        subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.DEVNULL) for _ in range(os.cpu_count() or 1)
    ]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


_CONTEXTS: dict[str, Callable[[], contextlib.AbstractContextManager[None]]] = {
    "gil": lambda: _threads(_hold_gil),
    "spinning": lambda: _threads(_spin, 4),
    "blas": _multiply,
    "garbage": _collect,
    "topics": _receive,
    "fork": _fork,
    "cores": _occupy,
}


def _publish(topic: str) -> None:
    """Publish a thousand messages a second until a signal ends this process."""
    import rclpy
    from rclpy.node import Node
    from std_msgs.msg import Float64MultiArray

    rclpy.init(args=[])
    publisher = Node(f"load_source_{os.getpid()}").create_publisher(Float64MultiArray, topic, 10)
    message, due, parent = Float64MultiArray(data=[0.0] * 32), time.monotonic(), os.getppid()
    while os.getppid() == parent:
        publisher.publish(message)
        due += 1e-3
        time.sleep(max(0.0, due - time.monotonic()))


if __name__ == "__main__":
    _publish(sys.argv[1])
