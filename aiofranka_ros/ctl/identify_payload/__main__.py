"""``python3 -m aiofranka_ros.ctl.identify_payload``, or ``ros2 run aiofranka_ros identify_payload``.

Weighs what the arm of a running node carries, and tells the robot, so that the arm neither sinks nor takes the weight
for a push. :mod:`aiofranka_ros.ctl.identify_payload.weighing` does it; here are the questions and the answer.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console

from aiofranka_ros.ctl.options import add_velocity, full_name, node_options
from aiofranka_ros.errors import Interrupted
from aiofranka_ros.processes import WAIT_STEP, StopRequest, readable

if TYPE_CHECKING:
    from aiofranka_ros.ctl.client import NodeClient
    from aiofranka_ros.ctl.identify_payload.weighing import Load
    from aiofranka_ros.model.payload import Payload

#: Larger unexplained torques mean that something is wrong [Nm].
_LARGEST_RESIDUAL = 0.6
#: Of the uncertainties that are shown, in standard deviations.
_SHOWN = 2.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Weigh, show the result, ask, and set the load.

    :returns: exit status: 0 if it was weighed, whether or not the load was set; 1 if not; 130 after Ctrl-C, 143 after
        SIGTERM; 2 if the command line is wrong. Unless the new load was set, the robot knows the same load as before.
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    options.node = full_name(parser, options)
    if not options.yes and not sys.stdin.isatty():
        parser.error("it asks before the arm moves, and this is no terminal: add --yes")
    stop = StopRequest()
    stop.install()
    from aiofranka_ros.ctl import commands
    from aiofranka_ros.ctl.client import Failed, NodeClient
    from aiofranka_ros.ctl.ending import ended_by, interrupted_once

    out, errors = Console(highlight=False, soft_wrap=True), Console(stderr=True, highlight=False, soft_wrap=True)
    check = interrupted_once(stop)
    try:
        with NodeClient(options.node, own_name=f"aiofranka_payload_{os.getpid()}", on_wait=check) as client:
            commands.discover(client)
            _identify(client, options, out, errors, check)
    except (Failed, Interrupted) as error:
        return ended_by(error, stop, errors)
    return 0


def _identify(
    client: NodeClient, options: argparse.Namespace, out: Console, errors: Console, check: Callable[[], None]
) -> None:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from aiofranka_ros.ctl import commands
    from aiofranka_ros.ctl.client import Failed
    from aiofranka_ros.ctl.identify_payload.weighing import HEAVIEST, NOTHING, Scale, ball
    from aiofranka_ros.model.payload import poses_around, reach

    state = client.state
    if state not in ("active", "inactive"):
        raise Failed(f"{client.name} is {state}: activate it first")
    scale = Scale(client)
    before, poses = scale.load(), poses_around(scale.q(), options.range)
    errors.print(
        f"{client.name} knows a load of {_load(before)}.\nThe arm is released for a moment, to see what it carries "
        f"now. Then it moves to {len(poses) // 2} poses around the present one, and back the same way; the flange "
        f"moves by up to {100.0 * reach(poses):.0f} cm. Nothing may touch it.",
        markup=False,
    )
    if not options.yes and not _agreed("Is there room, and may it move?", errors, check):
        raise Failed("nothing was done")
    told = before
    try:
        sign = scale.prepare()
        commands.change(client, "activate")
        columns = TextColumn("weighing"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
        with Progress(*columns, console=errors, transient=True) as bar:
            task = bar.add_task("", total=len(poses))
            found = scale.weigh(poses, sign, options.velocity, lambda: bar.advance(task))
        _show(found, before, options, out)
        if found.mass > HEAVIEST:
            raise Failed(f"an FR3 carries at most {HEAVIEST:g} kg")
        if not options.only_measure and (options.yes or _agreed("Tell the robot this load?", errors, check)):
            told = ball(found.mass, found.center) if found.is_something else NOTHING
    finally:
        if client.state == "active":
            commands.change(client, "deactivate")
        scale.tell(told)
        if state == "active":
            commands.change(client, "activate")
    errors.print(f"{client.name} knows a load of {_load(told)} until the robot or Desk forgets it", markup=False)


def _show(found: Payload, before: Load, options: argparse.Namespace, out: Console) -> None:
    if options.json:
        values: dict[str, Any] = {
            "mass": found.mass, "center_of_mass": found.center.tolist(), "mass_error": found.mass_error,
            "center_of_mass_error": found.center_error.tolist(), "residual_torque": found.residual,
            "mass_known_before": before.mass,
        }  # fmt: skip
        out.print(json.dumps({name: _finite(value) for name, value in values.items()}, indent=2), markup=False)
        return
    out.print(f"mass            {found.mass:6.3f} kg ± {_SHOWN * found.mass_error:.3f}")
    if found.is_something:
        for axis, center, error in zip("xyz", found.center, found.center_error, strict=True):
            out.print(f"centre of mass  {1e3 * center:6.1f} mm ± {1e3 * _SHOWN * error:.1f} along the flange's {axis}")
    else:
        out.print("the arm carries nothing, or less than can be told")
    out.print(f"not explained   {found.residual:6.3f} Nm (root mean square)")
    if found.residual > _LARGEST_RESIDUAL:
        out.print("[yellow]That is much: the arm was touched, a cable pulls, or the load is loose.[/]")


def _finite(value: Any) -> Any:
    """``None`` instead of what JSON cannot say."""
    if isinstance(value, list):
        return [_finite(each) for each in value]
    return value if value == value else None


def _load(load: Load) -> str:
    x, y, z = 1e3 * load.center
    return f"{load.mass:.3f} kg at ({x:.0f}, {y:.0f}, {z:.0f}) mm" if load.mass else "0 kg"


def _agreed(question: str, errors: Console, check: Callable[[], None]) -> bool:
    """Ask in the terminal; the end of the input is a no.

    :param check: called every now and then; raises ``Interrupted`` if a signal came.
    """
    errors.print(f"{question} [y/N] ", end="", markup=False)
    while not readable(sys.stdin.buffer, WAIT_STEP):
        check()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="identify_payload",
        parents=[node_options()],
        description="Weigh what the arm carries in addition to the end effector that is set in Desk: the arm moves "
        "through poses around the present one, and mass and centre of mass follow from the external torques of its "
        "joints at rest. Then, if you agree, the robot is told (~/set_load).",
        epilog="The node must be active or inactive, and no other client may control the arm. The arm must stand "
        "upright. Exit status: 0 if it was weighed, 1 if not, 2 if the command line is wrong. After an error, the "
        "robot knows the same load as before.",
    )
    parser.add_argument("--yes", action="store_true", help="ask nothing: move, and set the load")
    parser.add_argument("--only-measure", action="store_true", help="set nothing")
    parser.add_argument(
        "--range", type=_share, default=1.0, metavar="R",
        help="how far it moves, as a share of what is usual; half as far doubles the uncertainty [%(default)g]",
    )  # fmt: skip
    add_velocity(parser)
    parser.add_argument("--json", action="store_true", help="print the result as JSON; errors are standard deviations")
    return parser


def _share(text: str) -> float:
    """An argparse type: the share of the usual range."""
    value = float(text)
    if not 0.2 <= value <= 2.0:
        raise argparse.ArgumentTypeError(f"{text} is not between 0.2 and 2")
    return value


if __name__ == "__main__":
    sys.exit(main())
