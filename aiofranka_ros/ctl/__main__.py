"""``python3 -m aiofranka_ros.ctl COMMAND``, or ``ros2 run aiofranka_ros ctl COMMAND``.

Looks after a running node from a terminal or a script. It needs no tools of a ROS distribution, and uses the same
environment as the node: ``ROS_DOMAIN_ID`` and the rest.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from typing import Any

from rich.console import Console

from aiofranka_ros.ctl import commands
from aiofranka_ros.ctl.client import Failed, NodeClient
from aiofranka_ros.ctl.ending import ended_by, interrupted_once
from aiofranka_ros.ctl.options import add_velocity, full_name, node_options
from aiofranka_ros.errors import COMPILING, Interrupted
from aiofranka_ros.processes import StopRequest

#: Colours of the levels of diagnostics.
_COLOURS = {"OK": "green", "WARN": "yellow", "ERROR": "bold red", "STALE": "magenta"}
_POSES = ("home", "ready")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    :returns: exit status: 0 if the node did it, 1 if not, 130 after Ctrl-C and 143 after SIGTERM. Wrong options exit
        with 2.
    """
    options = _options(arguments)
    stop = StopRequest()
    stop.install()
    out, errors = Console(highlight=False, soft_wrap=True), Console(stderr=True, highlight=False, soft_wrap=True)
    said: list[str] = []
    check = interrupted_once(stop)

    def on_wait() -> None:
        """Say what a node is busy with that does not answer yet; raise ``Interrupted`` at the first signal."""
        check()
        loop = client.statuses.get("control loop")
        if loop is not None and loop.message == COMPILING and not said:
            said.append(COMPILING)
            errors.print(COMPILING)

    try:
        with NodeClient(options.node, own_name=f"aiofranka_ctl_{os.getpid()}", on_wait=on_wait) as client:
            commands.discover(client)
            _show(out, options, _run(client, options))
    except (Failed, Interrupted) as error:
        return ended_by(error, stop, errors)
    return 0


def _run(client: NodeClient, options: argparse.Namespace) -> Any:
    command = options.command
    if command in commands.TRANSITIONS:
        return commands.change(client, command)
    if command == "set":
        return commands.set_parameters(client, options.values)
    if command == "get":
        return commands.get_parameters(client, options.names)
    if command == "move":
        return commands.move(client, options.goal, options.velocity)
    simple = {
        "status": commands.status, "hold": commands.hold, "release": commands.release, "recover": commands.recover,
    }  # fmt: skip
    return simple[command](client)


def _show(out: Console, options: argparse.Namespace, result: Any) -> None:
    """Print what a command found."""
    if getattr(options, "json", False):
        out.print(json.dumps(result, indent=2, default=list), markup=False)
    elif options.command == "status":
        _show_status(out, result)
    elif options.command == "get":
        for name, value in result.items():
            out.print(f"{name}: {commands.shown(value)}", markup=False)
    else:
        out.print(result, markup=False)


def _show_status(out: Console, found: dict[str, Any]) -> None:
    details = [found["state"] or "no lifecycle"]
    details += [f"{name} {found[name]}" for name in ("mode", "owner") if found[name]]
    out.print(f"[bold]{found['node']}[/]  " + ", ".join(details))
    if not found["diagnostics"]:
        out.print("it has published nothing on /diagnostics")
    for name, said in found["diagnostics"].items():
        level = said["level"]
        out.print(f"  {name:<13} [{_COLOURS[level]}]{level:<6}[/]", end="")
        out.print(said["message"], markup=False)
        if level != "OK" and (remedy := said["values"].get("what to do")):
            out.print(f"{'':<22}-> {remedy}", markup=False)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = _parser()
    options = parser.parse_args(arguments)
    options.node = full_name(parser, options)
    if options.command == "set":
        if len(options.values) % 2:
            parser.error(f"set: {options.values[-1]} has no value; write: set NAME VALUE [NAME VALUE ...]")
        try:
            pairs = zip(options.values[::2], map(commands.parsed, options.values[1::2]), strict=True)
            options.values = dict(pairs)
        except ValueError as error:
            parser.error(f"set: {error}")
    if options.command == "move":
        options.goal = _goal(parser, options.goal)
    return options


def _goal(parser: argparse.ArgumentParser, words: list[str]) -> list[float]:
    """The joint positions [rad] (7,) that were written as numbers or as a name."""
    if len(words) == 1 and words[0] in _POSES:
        from aiofranka_ros.model import fr3  # Takes a second, which no other command needs.

        return list(map(float, getattr(fr3, words[0].upper())))
    try:
        goal = [float(word) for word in words]
    except ValueError:
        goal = []
    if len(goal) != 7:
        parser.error(f"move: give seven joint positions in rad, or {' or '.join(_POSES)}; got: {' '.join(words)}")
    return goal


def _parser() -> argparse.ArgumentParser:
    common = node_options()
    as_json = argparse.ArgumentParser(add_help=False)
    as_json.add_argument("--json", action="store_true", help="print JSON")
    parser = argparse.ArgumentParser(
        prog="ctl",
        description="Look after a running node: its state, its parameters, and what the arm does.",
        epilog="ctl COMMAND --help explains a command. Exit status: 0 if the node did it, 1 if not, 2 if the command "
        "line is wrong. It finds the nodes of the environment's ROS_DOMAIN_ID.",
    )
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def command(name: str, text: str, *parents: argparse.ArgumentParser) -> argparse.ArgumentParser:
        return subparsers.add_parser(
            name, help=text[0].lower() + text[1:], description=f"{text}.", parents=[common, *parents]
        )

    command("status", "Show its state, who controls the arm, and what is wrong", as_json)
    command("configure", "Connect to the robot; nothing moves")
    command("activate", "Take torque control and hold where the arm is; clears a reflex")
    command("deactivate", "Stop smoothly and release the arm")
    command("cleanup", "Disconnect from the robot")
    setting = command("set", "Set parameters, all of them or none")
    setting.add_argument(
        "values", nargs="+", metavar="NAME VALUE", help='as in a parameter file: mode impedance, kp "[600, 600, ...]"'
    )
    getting = command("get", "Show parameters", as_json)
    getting.add_argument("names", nargs="*", metavar="NAME", help="which [all]")
    command("hold", "Stop, hold and follow no client until release")
    command("release", "Let clients control the arm again after hold, or after it was pushed")
    command("recover", "Clear a reflex, or connect again, and hold where the arm is")
    moving = command("move", "Move to joint positions and wait until the arm is there; Ctrl-C stops it")
    moving.add_argument("goal", nargs="+", metavar="Q", help=f"seven joint positions [rad], or {' or '.join(_POSES)}")
    add_velocity(moving)
    return parser


if __name__ == "__main__":
    sys.exit(main())
