"""How well ``identify_payload`` weighs: loads on the simulated arm that its client does not know.

Started by ``make bench-payload``.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import Progress

from aiofranka_ros.ctl import commands
from aiofranka_ros.ctl.identify_payload.weighing import NOTHING, Scale
from aiofranka_ros.errors import Interrupted
from aiofranka_ros.model.payload import Payload, poses_around
from aiofranka_ros.processes import StopRequest
from aiofranka_ros.simulation import remote
from aiofranka_ros.testing import Client, isolate, started

#: Mass [kg] and centre of mass in the flange [m] of each load.
LOADS = ((0.3, (0.0, 0.0, 0.04)), (1.0, (0.02, -0.03, 0.08)), (2.5, (-0.02, 0.01, 0.12)))
#: Largest errors [kg], [m].
_MASS, _CENTER = 0.05, 0.01


def main() -> int:
    """Weigh all loads; exit status 0 if mass and centre of mass are near enough, 1 if not, 130 after Ctrl-C."""
    argparse.ArgumentParser(
        description="Weigh three loads on the simulated arm; it takes some two minutes."
    ).parse_args()
    stop, console, good = StopRequest(), Console(), True
    stop.install()
    isolate()
    try:
        with (
            tempfile.TemporaryDirectory() as folder,
            started(Path(folder), autostart=True) as (_, client),
            Progress(console=console, transient=True) as bar,
        ):
            client.wait(lambda: client.state == "active", "the arm does not become active")
            for mass, center in LOADS:
                found = _weigh(client, mass, np.array(center), bar, stop)
                off = float(np.abs(found.center - center).max())
                good = good and abs(found.mass - mass) <= _MASS and off <= _CENTER
                console.print(
                    f"{mass:.1f} kg: {found.mass:.3f} ± {2.0 * found.mass_error:.3f} kg, "
                    f"centre of mass {1e3 * off:.1f} mm off, ± {2e3 * found.center_error.max():.1f}",
                    highlight=False,
                )
    except Interrupted:
        return stop.exit_status
    console.print(
        f"required: within {1e3 * _MASS:g} g and {1e3 * _CENTER:g} mm: {'yes' if good else 'no'}", highlight=False
    )
    return 0 if good else 1


def _weigh(client: Client, mass: float, center: np.ndarray, bar: Progress, stop: StopRequest) -> Payload:
    """What is found of a load that the robot does not know."""
    address, scale = client.address, Scale(client)
    commands.change(client, "deactivate")
    scale.tell(NOTHING)
    remote.ask(address, "load", mass=mass, center=center.tolist())
    poses = poses_around(scale.q())
    task = bar.add_task(f"{mass:g} kg", total=len(poses))
    sign = scale.prepare()
    commands.change(client, "activate")

    def advance() -> None:
        stop.check()
        bar.advance(task)

    return scale.weigh(poses, sign, None, advance)


if __name__ == "__main__":
    sys.exit(main())
