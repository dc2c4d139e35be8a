"""How long a call takes through the offload helpers, compared with the obvious alternatives; ``make bench-offload``.

Every helper echoes the same arrays: a 7-vector (joint positions), one camera image and four. All are measured in turn,
in many short rounds in one process, so that other load on the machine affects all of them, and the medians of the same
round are compared. The pipe is the obvious alternative to ``mpify``: pickles through a ``multiprocessing.Pipe``,
received in the event loop's executor.

The exit status is 0 if ``mpify`` is faster than the pipe by the factors in :data:`REQUIRED`, and leaks nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import multiprocessing
import os
import platform
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from aiofranka_ros.offload.inference import CudaInferenceThread
from aiofranka_ros.offload.mpify.isolated import Proxy, mpify
from aiofranka_ros.offload.workers import asyncify

Echo = Callable[[Any], Awaitable[Any]]

#: The values to echo, and how many times in each round.
PAYLOADS: dict[str, tuple[Any, int]] = {
    "vector": (np.linspace(-1.0, 1.0, 7), 50),
    "image": (np.random.default_rng(1).integers(0, 255, (480, 640, 3), np.uint8), 15),
    "four_images": ([np.random.default_rng(n).integers(0, 255, (480, 640, 3), np.uint8) for n in range(4)], 8),
}
TITLES = {"vector": "7-vector", "image": "640x480x3 image", "four_images": "four images"}
#: How many times faster than the pipe ``mpify`` must be.
REQUIRED = {"vector": 2.0, "four_images": 8.0}
#: Each helper and its alternative.
COMPARISONS = {"mpify": "pipe", "asyncify": "run_in_executor", "cuda_inference_thread": "run_in_executor"}
#: Anonymous memory may grow by this much in the second half of the leak check [bytes]: allocators keep some.
_TOLERANCE = 4 * 1024 * 1024


class Remote:
    """The object behind :data:`mpify`."""

    def echo(self, value: Any) -> Any:
        """Return ``value``."""
        return value

    def footprint(self) -> dict[str, int]:
        """The resources of its process, see :func:`footprint`."""
        return footprint()


def echo(value: Any) -> Any:
    """Return ``value``."""
    return value


class PipeProxy:
    """The obvious way to call an object in another process."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve_pipe, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()

    async def echo(self, value: Any) -> Any:
        """Send ``value`` to the child, which returns it."""
        self._connection.send(("call", "echo", (value,), {}))
        status, answer = await asyncio.get_running_loop().run_in_executor(None, self._connection.recv)
        if status != "ok":
            raise RuntimeError(answer)
        return answer

    def stop(self) -> None:
        """End the child."""
        self._connection.send(None)
        self._process.join()
        self._connection.close()


def _serve_pipe(connection: Connection) -> None:
    remote = Remote()
    while (request := connection.recv()) is not None:
        _, name, args, kwargs = request
        connection.send(("ok", getattr(remote, name)(*args, **kwargs)))


def footprint() -> dict[str, int]:
    """Resources of this process: ``memory``, ``shared_memory`` [bytes], ``descriptors`` and mapped ``segments``."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    maps = Path("/proc/self/maps").read_text().splitlines()
    return {
        "memory": 1024 * int(status["RssAnon"].split()[0]),
        "shared_memory": 1024 * int(status["RssShmem"].split()[0]),
        "descriptors": len(os.listdir("/proc/self/fd")),
        "segments": sum("memfd:" in line for line in maps),
    }


async def time_calls(function: Echo, payload: Any, count: int) -> list[float]:
    """Round trips [us], one after another."""
    durations = []
    answer = await function(payload)  # Not measured: the previous helper has filled the caches.
    for _ in range(count):
        begin = time.perf_counter()
        answer = await function(payload)
        durations.append(1e6 * (time.perf_counter() - begin))
    del answer
    return durations


async def measure(policy: Proxy, rounds: int, progress: Progress) -> dict[str, Any]:
    """All helpers in turn.

    :returns: ``round_trip_us`` and ``ratio`` of the report.
    """
    loop = asyncio.get_running_loop()
    async with contextlib.AsyncExitStack() as stack:
        pipe = PipeProxy()
        stack.callback(pipe.stop)
        thread = stack.enter_context(CudaInferenceThread())
        helpers: dict[str, Echo] = {
            "mpify": policy.echo,
            "pipe": pipe.echo,
            "asyncify": asyncify(echo),
            "run_in_executor": lambda value: loop.run_in_executor(None, echo, value),
            "cuda_inference_thread": lambda value: thread.run(echo, value),
        }
        times: dict[str, dict[str, list[list[float]]]] = {name: {p: [] for p in PAYLOADS} for name in helpers}
        task = progress.add_task("round trips", total=rounds * len(PAYLOADS))
        for number in range(rounds):
            for label, (payload, count) in PAYLOADS.items():
                # In a different order each time.
                for name in _rotated(list(helpers), number):
                    times[name][label].append(await time_calls(helpers[name], payload, count))
                progress.update(task, advance=1, refresh=True)
    figures = {name: {label: _percentiles(times[name][label]) for label in PAYLOADS} for name in helpers}
    ratios = {
        f"{name}_over_{other}": {label: _ratio(times[name][label], times[other][label]) for label in PAYLOADS}
        for name, other in COMPARISONS.items()
    }
    return {"round_trip_us": figures, "ratio": ratios}


async def check_leaks(policy: Proxy, calls: int, progress: Progress) -> dict[str, Any]:
    """Check that many calls with an image leave nothing behind, in this process or in the child.

    :returns: ``calls``, each process's footprints after a tenth, a half and all of them, and ``passed``.
    """
    image = PAYLOADS["image"][0]
    footprints: dict[str, list[dict[str, int]]] = {"here": [], "child": []}
    task = progress.add_task("leak check", total=calls)
    for number in range(1, calls + 1):
        await policy.echo(image)
        if number in (max(1, calls // 10), calls // 2, calls):
            footprints["child"].append(await policy.footprint())
            footprints["here"].append(footprint())
        if not number % 100:
            progress.update(task, completed=number, refresh=True)
    passed = all(
        end["memory"] - half["memory"] < _TOLERANCE
        and all(end[kind] <= half[kind] for kind in ("shared_memory", "descriptors", "segments"))
        for _, half, end in footprints.values()
    )
    return {"calls": calls, **footprints, "passed": passed}


async def run(options: argparse.Namespace, policy: Proxy, progress: Progress) -> dict[str, Any]:
    """Measure, and check for leaks if asked for."""
    async with policy:
        report = await measure(policy, options.rounds, progress)
        if options.leak_check:
            report["leak_check"] = await check_leaks(policy, options.leak_check, progress)
    return report


def _rotated(names: list[str], by: int) -> list[str]:
    by %= len(names)
    return names[by:] + names[:by]


def _percentiles(rounds: list[list[float]]) -> dict[str, float]:
    p50, p99 = np.percentile(np.concatenate(rounds), (50, 99)).tolist()
    return {"p50": round(p50, 1), "p99": round(p99, 1)}


def _ratio(rounds: list[list[float]], others: list[list[float]]) -> dict[str, float]:
    """How many times faster: median, smallest and largest of the rounds."""
    ratios = [float(np.median(other) / np.median(mine)) for mine, other in zip(rounds, others, strict=True)]
    return {"median": round(float(np.median(ratios)), 2), "min": round(min(ratios), 2), "max": round(max(ratios), 2)}


def tables(report: dict[str, Any]) -> list[Table]:
    """The report as tables."""
    trips = Table(title="Round trips, p50 / p99 [us]")
    trips.add_column("")
    for title in TITLES.values():
        trips.add_column(title, justify="right")
    for name, figures in report["round_trip_us"].items():
        trips.add_row(name, *[f"{figures[label]['p50']:,.0f} / {figures[label]['p99']:,.0f}" for label in TITLES])
    ratios = Table(title="Times faster, median (smallest to largest) of the rounds")
    ratios.add_column("")
    for label, title in TITLES.items():
        required = f"\nat least {REQUIRED[label]:g}" if label in REQUIRED else ""
        ratios.add_column(title + required, justify="right")
    for name, other in COMPARISONS.items():
        cells = [report["ratio"][f"{name}_over_{other}"][label] for label in TITLES]
        # Spaces, so that lines break between words.
        texts = [f"{cell['median']:.2f} ({cell['min']:.2f} to {cell['max']:.2f})" for cell in cells]
        ratios.add_row(f"{name} than {other}".replace("_", " "), *texts)
    if "leak_check" not in report:
        return [trips, ratios]
    check = report["leak_check"]
    leaks = Table(title=f"After {check['calls']:,} calls with an image: {'nothing' if check['passed'] else 'LEAKS'}")
    for title in ("process", "after calls", "memory [MB]", "shared memory [MB]", "descriptors", "segments"):
        leaks.add_column(title, justify="left" if title == "process" else "right")
    for process in ("here", "child"):
        for after, one in zip((check["calls"] // 10, check["calls"] // 2, check["calls"]), check[process], strict=True):
            sizes = f"{one['memory'] / 1e6:.1f}", f"{one['shared_memory'] / 1e6:.1f}"
            leaks.add_row(process, f"{after:,}", *sizes, str(one["descriptors"]), str(one["segments"]))
    return [trips, ratios, leaks]


def plot(report: dict[str, Any], path: Path) -> None:
    """Draw the round trips: medians as bars, the 99th percentiles as ticks above them."""
    # Imported here: it takes a second, and the child does not need it.
    from matplotlib.figure import Figure

    colors = {
        "mpify": "#0072b2",
        "pipe": "#9ecae1",
        "asyncify": "#d55e00",
        "cuda_inference_thread": "#e69f00",
        "run_in_executor": "#f5d5a8",
    }
    figure = Figure(figsize=(11.0, 4.2), layout="constrained")
    # One scale, so that all bars can be compared.
    for (label, title), axes in zip(TITLES.items(), figure.subplots(1, len(TITLES), sharey=True), strict=True):
        for position, (name, color) in enumerate(colors.items()):
            figures = report["round_trip_us"][name][label]
            axes.bar(position, figures["p50"], color=color, width=0.7)
            axes.plot([position - 0.25, position + 0.25], [figures["p99"]] * 2, color="#333333", linewidth=1.5)
            axes.annotate(f"{figures['p50']:,.0f}", (position, figures["p50"]), ha="center", va="bottom", fontsize=9)
        axes.set(title=title, yscale="log")
        axes.yaxis.set_major_formatter("{x:,.0f}")
        axes.set_xticks(range(len(colors)), [name.replace("_", "\n") for name in colors], fontsize=8)
        axes.grid(axis="y", color="#e5e5e5")
        axes.set_axisbelow(True)
    figure.axes[0].set(ylabel="round trip [us], p50 (bar) and p99 (tick)", ylim=(10.0, None))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def failures(report: dict[str, Any]) -> list[str]:
    """Requirements that are not met."""
    found = []
    for label, required in REQUIRED.items():
        ratio = report["ratio"]["mpify_over_pipe"][label]["median"]
        if ratio < required:
            found.append(f"mpify is {ratio:.2f} times as fast as the pipe for {TITLES[label]}, not {required:g} times")
    if not report.get("leak_check", {"passed": True})["passed"]:
        found.append("memory, descriptors or segments grew during the second half of the leak check")
    return found


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python bench/offload.py",
        description="Measure how long calls take through mpify, asyncify and CudaInferenceThread, compared with "
        "a plain multiprocessing.Pipe and run_in_executor. The exit status is 0 if mpify is at least "
        f"{REQUIRED['vector']:g} times as fast as the pipe for a 7-vector and {REQUIRED['four_images']:g} times for "
        "four images.",
    )
    parser.add_argument(
        "--output", type=Path, default=Path("build/bench/offload.json"), metavar="FILE",
        help="where to write the figures; the plot goes next to it, as .png [%(default)s]",
    )  # fmt: skip
    parser.add_argument(
        "--rounds", type=int, default=60, metavar="N",
        help="number of rounds, about a quarter of a second each [%(default)s]",
    )  # fmt: skip
    parser.add_argument(
        "--leak-check", type=int, nargs="?", const=20_000, metavar="N",
        help="also make N calls with an image and compare memory, descriptors and shared memory [%(const)s]",
    )  # fmt: skip
    parser.add_argument("--quiet", action="store_true", help="show only requirements that are not met")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, show and write.

    :returns: exit status: 0 if all requirements are met, 1 if not.
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.rounds < 1:
        parser.error(f"argument --rounds: {options.rounds} is not positive")
    if options.leak_check is not None and options.leak_check < 100:
        parser.error(f"argument --leak-check: {options.leak_check} calls are too few to show a leak: at least 100")
    console = Console(quiet=options.quiet)
    columns = TextColumn("{task.description:<12}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    policy = mpify(Remote)
    # No automatic refresh: it would be a second thread, which disturbs the measurement.
    with Progress(*columns, console=console, transient=True, auto_refresh=False, disable=options.quiet) as progress:
        report = asyncio.run(run(options, policy, progress))
    report["machine"] = {"cpus": os.cpu_count(), "python": platform.python_version(), "kernel": platform.release()}
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(report, indent=2) + "\n")
    picture = options.output.with_suffix(".png")
    plot(report, picture)
    for table in tables(report):
        console.print(table)
    console.print(f"Figures in {options.output}, plot in {picture}.")
    found = failures(report)
    for failure in found:
        Console(stderr=True).print(failure, style="bold red")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
