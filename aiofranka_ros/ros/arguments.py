"""The command line of a node: ``--help``, and a refusal of everything that ROS would silently ignore.

Used by the ``main`` functions of the nodes, in their processes, before anything drives an arm: :func:`read` before the
node exists, :func:`checked` as soon as it does. rclpy ignores arguments that are not its own, parameters that no node
declares, and parameter files for other nodes: a misspelt limit would leave the arm at its default.
"""

from __future__ import annotations

import argparse
import itertools
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import yaml
from rclpy.utilities import remove_ros_args

from aiofranka_ros.control.setting import Setting
from aiofranka_ros.errors import ConfigurationError, nearest

_ROS_ARGUMENTS = """\
ROS arguments, after --ros-args:
  -p NAME:=VALUE         set a parameter, e.g. -p mode:=impedance or -p "kp:=[600.0, ...]"
  --params-file FILE     set the parameters in a YAML file; the last value of several counts
  -r __ns:=/NAMESPACE    run in a namespace, e.g. for a second arm
  -r __node:=NAME        run under another name
  -r FROM:=TO            rename a topic, service or action
  --log-level LEVEL      debug, info, warn, error or fatal
A parameter that does not exist, in these or in a file, prevents the start.
"""
#: How similar a name under a wildcard must be to one of this node to count as a misspelling: other nodes' parameters
#: may be under the same wildcard, and some of them have similar names.
_MISSPELT = 0.85
#: Parameters that rclpy itself reads.
_OF_ROS = "qos_overrides."

#: A node with a method ``close``.
_Node = TypeVar("_Node", bound=Any)


def read(arguments: Sequence[str] | None, module: str, description: str, settings: Sequence[Setting]) -> None:
    """Print the usage and exit with 0 if the command line asks for ``--help``; exit with 2 if it is wrong.

    :param arguments: from the command line, without the program's name; ``None``: this process's.
    :param module: that is run, for the usage.
    :param settings: the parameters of the node.
    """
    parser = argparse.ArgumentParser(
        prog=f"python3 -m {module}",
        usage="%(prog)s [--help] [--ros-args [-p NAME:=VALUE] [--params-file FILE] [-r FROM:=TO] ...]",
        description=description,
        epilog=_ROS_ARGUMENTS + "\n" + _table(settings),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        words = remove_ros_args(words)
    except RuntimeError as error:  # All of rclpy's errors of arguments.
        # Without the places in its source code.
        parser.error(f"ROS arguments: {re.sub(r', at [^ ]+:[0-9]+', '', str(error))}")
    parser.parse_args(words)


def _table(settings: Sequence[Setting]) -> str:
    """The parameters, with their meaning, default and allowed values."""
    lines = ["Parameters:"]
    for setting in settings:
        value = list(setting.default) if isinstance(setting.default, tuple) else setting.default
        lines += [f"  {setting.name}", f"      {setting.text}"]
        lines += [f"      {setting.range}. Default: {yaml.safe_dump(value, default_flow_style=True).split(chr(10))[0]}"]
    return "\n".join(lines)


class _Source(NamedTuple):
    """A place that gives parameters: a file's section, or the command line.

    :ivar where: the place, for messages.
    :ivar node: full name of the node that it is for, perhaps with wildcards.
    :ivar names: of its parameters.
    :ivar exact: whether it can only mean the node of this process.
    """

    where: str
    node: str
    names: frozenset[str]
    exact: bool

    def applies(self, node: str) -> bool:
        """Whether it applies to ``node``, a full name."""
        pattern = re.escape(self.node).replace(r"/\*\*", "(/[^/]+)*").replace(r"\*", "[^/]+")
        return re.fullmatch(pattern, node) is not None


def checked(node: _Node, arguments: Sequence[str] | None) -> _Node:
    """``node``, which has declared its parameters and gets no others; if it does, it is closed.

    Parameters under a wildcard may belong to other nodes: they are warned of, and refused only if they are misspelt.

    :param arguments: as for :func:`read`.
    :raises ConfigurationError: there are other parameters; it names the nearest ones that exist.
    """
    problems = _problems(node, arguments)
    if problems:
        node.close()
        raise ConfigurationError("; ".join(problems))
    return node


def _problems(node: Any, arguments: Sequence[str] | None) -> list[str]:
    """What is wrong with the parameters given to ``node``; what may be right is logged as a warning."""
    name, warn = node.get_fully_qualified_name(), node.get_logger().warning
    sources = list(_sources(list(sys.argv[1:] if arguments is None else arguments)))
    known = [parameter.name for parameter in node.get_parameters_by_prefix("").values()]
    problems = []
    for parameter in node._parameter_overrides:  # rclpy has no public name for it.
        if node.has_parameter(parameter) or parameter.startswith(_OF_ROS):
            continue
        places = [source for source in sources if parameter in source.names and source.applies(name)]
        exact = [source for source in places if source.exact]
        where = (exact or places)[-1].where if places else "its parameters"
        near = nearest(parameter, known) if exact or not places else nearest(parameter, known, _MISSPELT)
        text = f"there is no parameter {parameter!r} ({where})" + (f": did you mean {near!r}?" if near else "")
        if near or exact or not places:
            problems.append(text)
        else:
            warn(f"{text}; it is ignored, another node may have it")
    for where in dict.fromkeys(source.where for source in sources):
        nodes = [source.node for source in sources if source.where == where]
        if any(source.applies(name) for source in sources if source.where == where):
            continue
        text = f"{where} is not for {name}, but for {', '.join(nodes)}"
        # A file may be for several nodes of a system, but not one that means this node.
        if where.startswith("-p") or any(nearest(other.rpartition("/")[2], [node.get_name()]) for other in nodes):
            problems.append(text)
        else:
            warn(text)
    return problems


def _sources(words: list[str]) -> Iterator[_Source]:
    """Everything on the command line that gives parameters, in its order."""
    ours = False
    for word, value in itertools.pairwise([*words, ""]):
        if word in ("--ros-args", "--"):
            ours = word == "--ros-args"
        elif ours and word in ("-p", "--param"):
            target, _, _ = value.partition(":=")
            node, _, name = target.rpartition(":")
            yield _Source(f"-p {value}", f"/{node}" if node else "/**", frozenset([name]), exact=True)
        elif ours and word == "--params-file":
            yield from _sections(value, yaml.safe_load(Path(value).read_text()))


def _sections(file: str, content: Any, path: str = "") -> Iterator[_Source]:
    """The sections of a parameter file, whose names may be nested."""
    for key, value in content.items() if isinstance(content, dict) else ():
        if key == "ros__parameters":
            yield _Source(file, path, frozenset(_flat(value)), exact="*" not in path)
        else:
            yield from _sections(file, value, f"{path}/{str(key).strip('/')}")


def _flat(parameters: Any, prefix: str = "") -> Iterator[str]:
    """Names of parameters, with dots between the names of their groups."""
    for key, value in parameters.items() if isinstance(parameters, dict) else ():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"
