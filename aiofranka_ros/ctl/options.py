"""The options that several command lines have: which node, and how fast.

Used by :mod:`aiofranka_ros.ctl` and :mod:`aiofranka_ros.streams`, in the main thread of their processes. It imports
nothing that takes long, because ``--help`` needs it.
"""

from __future__ import annotations

import argparse


def node_options() -> argparse.ArgumentParser:
    """A parent of parsers with the options ``--node`` and ``--namespace``."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--node", default="aiofranka", metavar="NAME", help="name of the node [%(default)s]")
    parser.add_argument("--namespace", default="", metavar="NS", help="its namespace, e.g. left [none]")
    return parser


def full_name(parser: argparse.ArgumentParser, options: argparse.Namespace) -> str:
    """The full name that the options give; exit with 2 if they contradict each other."""
    node, namespace = options.node, options.namespace.strip("/")
    if node.startswith("/") and namespace:
        parser.error(f"--node {node} is a full name already: leave --namespace out")
    return "/" + "/".join(part for part in (namespace, node.strip("/")) if part)


def add_velocity(parser: argparse.ArgumentParser) -> None:
    """Add the option ``--velocity``, of moves."""
    parser.add_argument(
        "--velocity", type=_positive, metavar="V",
        help="largest velocity of the joints [rad/s] [the parameter move_velocity]",
    )  # fmt: skip


def _positive(text: str) -> float:
    """An argparse type: a positive number."""
    value = float(text)
    if not 0.0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return value
