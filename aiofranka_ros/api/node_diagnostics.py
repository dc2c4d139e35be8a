"""What a node says about its arm on ``/diagnostics``: how well its control loop runs, and why it stopped.

Used by :class:`~aiofranka_ros.api.ros_interface.RosInterface`, in the event loop.
"""

from __future__ import annotations

import asyncio
import statistics
import time

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus

from aiofranka_ros import errors
from aiofranka_ros.api.link import ConnectionReport
from aiofranka_ros.errors import ConnectionFailed, ControlStopped, FrankaError


class NodeDiagnostics:
    """The newest statuses of one node, and the recent figures of its control loop.

    :param node: full name of the node.
    """

    def __init__(self, node: str) -> None:
        self._prefix = f"{node.strip('/')}: "
        self._statuses: dict[str, DiagnosticStatus] = {}
        self._figures: dict[str, str] = {}
        self._received = asyncio.Event()

    def receive(self, message: DiagnosticArray) -> None:
        """Remember what concerns the node."""
        for status in message.status:
            if status.name.startswith(self._prefix):
                self._statuses[status.name.removeprefix(self._prefix)] = status
                if "response p50 [us]" in (figures := _values(status)):  # The control loop runs.
                    self._figures = figures
                    self._received.set()  # Wakes the calls that wait now; later ones wait for the next message.
                    self._received.clear()

    @property
    def missing_for_real_time(self) -> str:
        """What the node's computer lacks for real time; empty if nothing, or if it is not known yet."""
        return self._figures.get("missing for real time", "")

    async def measure(self, duration: float) -> ConnectionReport:
        """Measure the control loop for ``duration`` [s], and at least one period of the diagnostics.

        ``response_us`` has the median of the periods' medians and the largest of their 99th percentiles;
        ``longest_gap`` and ``success_rate_min`` cover the time since the activation.
        """
        first, begin = await self._next_figures(), time.monotonic()
        periods = [await self._next_figures()]
        while time.monotonic() < begin + duration:
            periods.append(await self._next_figures())
        last = periods[-1]
        return ConnectionReport(
            duration=time.monotonic() - begin,
            cycles=int(last["cycles"]) - int(first["cycles"]),
            cycles_lost=int(last["cycles lost"]) - int(first["cycles lost"]),
            longest_gap=int(last["longest gap [cycles]"]),
            success_rate_min=float(last["success rate min"]),
            response_us={
                "p50": statistics.median(float(period["response p50 [us]"]) for period in periods),
                "p99": max(float(period["response p99 [us]"]) for period in periods),
                "max": max(float(period["response max [us]"]) for period in periods),
            },
        )

    async def _next_figures(self) -> dict[str, str]:
        await self._received.wait()
        return self._figures

    def reason(self, otherwise: FrankaError) -> FrankaError:
        """The robot's error as the node reports it; ``otherwise`` if it reports none."""
        status = self._statuses.get("robot")
        if status is None or status.level != DiagnosticStatus.ERROR:
            return otherwise
        values = _values(status)
        kind, message = values.get("kind of error", ""), values.get("last error", status.message)
        if kind == "ControlStopped":
            return ControlStopped(message, errors=tuple(values.get("libfranka errors", "").split()))
        found = getattr(errors, kind, None)
        # Only an error that is made from its message alone can be raised here as what it was.
        simple = isinstance(found, type) and issubclass(found, FrankaError) and found is not errors.IncompatibleRobot
        return found(message) if simple else ConnectionFailed(message)  # type: ignore[misc]


def _values(status: DiagnosticStatus) -> dict[str, str]:
    return {value.key: value.value for value in status.values}
