"""The README runs as printed and stays short; tables and links in all documents match the code.

``python test/test_readme.py`` rewrites the tables of parameters and of diagnostics.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from common import ROOT

from aiofranka_ros.arm.gripper.settings import GRIPPER_SETTINGS
from aiofranka_ros.arm.setting_table import SETTINGS
from aiofranka_ros.control.setting import Setting, Stage
from aiofranka_ros.ros.conditions import (
    CONDITIONS,
    ERROR,
    LIMITS,
    OTHER_REFUSALS,
    REFUSALS,
    ROBOT_ERRORS,
    STALE,
    WARN,
    limit_remedy,
)
from aiofranka_ros.testing import Client, NodeProcess

README, REFERENCE = ROOT / "README.md", ROOT / "docs" / "reference.md"
TROUBLESHOOTING = ROOT / "docs" / "troubleshooting.md"
DOCUMENTS = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]
#: Words, code and tables included: a longer page is not read to the end.
MOST_WORDS = 1600
#: Sections with a table of parameters.
TABLES = {"parameters": SETTINGS, "gripper parameters": GRIPPER_SETTINGS}
#: In one word, when a parameter can be changed.
_WHEN = {
    None: "any time",
    Stage.ACTIVE: "inactive",
    Stage.CONFIGURED: "unconfigured",
    Stage.STARTED: "start",
}


def section(name: str, document: Path = README) -> re.Match[str]:
    """The text between the marks ``name: begin`` and ``name: end``, as the group ``text``."""
    text = document.read_text()
    found = re.search(rf"<!-- {name}: begin.*?-->\n(?P<text>.*?)<!-- {name}: end -->", text, re.DOTALL)
    assert found is not None, f"{document.name} has no section {name!r}"
    return found


def parameter_table(settings: tuple[Setting, ...]) -> str:
    """A table of parameters as it should be."""
    lines = ["| parameter | default | allowed | when | meaning |", "|---|---|---|---|---|"]
    for setting in settings:
        cells = [f"`{setting.name}`", default(setting), setting.range, _WHEN[setting.locked_from], setting.text]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def diagnostics_tables() -> str:
    """What the statuses can say, why targets are refused, and why a robot stops."""

    def blanks(text: str) -> str:
        return re.sub(r"{[^}]*}", "...", text.replace("{node}", "/aiofranka").replace("{address}", "ADDRESS"))

    levels = {WARN: "WARN", ERROR: "ERROR", STALE: "STALE"}
    lines = ["| status | level | message | what to do |", "|---|---|---|---|"]
    for each in CONDITIONS.values():
        message = "the error's message" if each.message == "{message}" else f"`{blanks(each.message)}`"
        lines.append(f"| {each.status} | {levels[each.level]} | {message} | {blanks(each.remedy)} |")
    lines += ["", "| reason of a refusal | what to do |", "|---|---|"]
    lines += [f"| {reason} | {blanks(remedy)} |" for reason, remedy in REFUSALS.items()]
    lines += [f"| every other | {OTHER_REFUSALS} |", "", "| limit that a target met | what to do |", "|---|---|"]
    lines += [f"| {limit} | {limit_remedy([limit])} |" for limit in LIMITS]
    lines += ["", "| libfranka's error | what to do before activating again |"]
    lines += ["|---|---|", *(f"| `...{part}...` | {blanks(remedy)} |" for part, remedy in ROBOT_ERRORS.items())]
    return "\n".join(lines) + "\n"


def default(setting: Setting) -> str:
    """The default of a parameter, in short."""
    value = setting.default
    if isinstance(value, bool):
        return str(value).lower()
    if value in ("", ()):
        return "empty"
    if setting.is_list:
        return " ".join(map(str, setting.default))
    if not isinstance(value, tuple):
        return f"{value:g}" if isinstance(value, float) else f"{value}"
    if len(set(value)) == 1:
        return f"{len(value)} times {value[0]:g}"
    return " ".join(f"{element:g}" for element in value)


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.unit
def test_the_tables_of_parameters_match_the_nodes(name: str) -> None:
    assert section(name, REFERENCE)["text"] == parameter_table(TABLES[name]), "run: python test/test_readme.py"


@pytest.mark.unit
def test_the_tables_of_diagnostics_match_the_nodes() -> None:
    assert section("diagnostics", TROUBLESHOOTING)["text"] == diagnostics_tables(), "run: python test/test_readme.py"


def run(code: str, tmp_path: Path) -> str:
    """Run a script; returns what it prints."""
    script = tmp_path / "script.py"
    script.write_text(code)
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    ran = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, env=environment, timeout=90.0)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_the_asyncio_script_runs_as_printed(tmp_path: Path) -> None:
    code = re.fullmatch(r"```python\n(.*)```\n", section("asyncio")["text"], re.DOTALL)
    assert code is not None
    assert re.match(r"arrived at \[.*\]\n\d+ control cycles in", run(code[1], tmp_path))


def test_the_first_lines_of_code_run_as_printed(tmp_path: Path) -> None:
    code = re.search(r"```python\n(.*?)```\n", README.read_text(), re.DOTALL)
    assert code is not None
    around = "import asyncio\nimport numpy as np\nfrom aiofranka_ros import FrankaController, RobotInterface\n\n"
    around += "async def main():\n{}\n    print(controller.running)\n\nasyncio.run(main())\n"
    assert run(around.format(textwrap.indent(code[1], "    ")), tmp_path) == "False\n"


@pytest.mark.light
def test_every_topic_service_and_action_of_the_node_is_in_a_table(idle: tuple[NodeProcess, Client]) -> None:
    process, client = idle
    offered = [entry for kind in client.offers() for entry in kind.items()]
    # Names that every ROS node has, names of its lifecycle, and names inside actions.
    common = re.compile(
        r"/(rosout|parameter_events|transition_event|clock)$|/_action/|/\w*parameters?(_\w+)?$|/get_type_description$|"
        r"/(change_state|get_state|get_available_states|get_available_transitions|get_transition_graph)$"
    )
    rows = set()
    for names, kind in re.findall(r"^\| (`\S+`(?:, `\S+`)*) \| `(\w+/\w+)` \|", REFERENCE.read_text(), re.MULTILINE):
        rows |= {(short, kind) for short in re.findall(r"`(\S+)`", names)}
    for topic, kind in offered:
        if not common.search(topic):
            short = topic.replace(process.name, "~").removeprefix(f"/{process.namespace}/")
            assert (short, re.sub("/(msg|action|srv)/", "/", kind)) in rows


@pytest.mark.unit
def test_joint_positions_in_the_example_are_those_of_the_package() -> None:
    from aiofranka_ros.model.fr3 import HOME, READY

    example = (ROOT / "examples" / "ros_client.py").read_text()
    names: dict[str, object] = {"math": __import__("math")}
    for name in ("home", "ready"):
        line = re.search(rf"^ *{name} = (.*)$", example, re.MULTILINE)
        assert line is not None
        names[name] = eval(line[1], names)
    np.testing.assert_allclose(names["home"], HOME)  # type: ignore[arg-type]
    np.testing.assert_allclose(names["ready"], READY)  # type: ignore[arg-type]


@pytest.mark.unit
def test_the_readme_is_short() -> None:
    assert len(README.read_text().split()) <= MOST_WORDS


@pytest.mark.unit
def test_every_page_can_be_found_from_the_readme() -> None:
    linked = set(re.findall(r"\]\(([^)#]+\.md)", README.read_text()))
    assert {str(document.relative_to(ROOT)) for document in DOCUMENTS} - linked == {"README.md"}


@pytest.mark.unit
def test_files_named_for_contributors_exist() -> None:
    places = (ROOT, ROOT / "aiofranka_ros", ROOT / "aiofranka_ros" / "control")
    for document in (ROOT / "CONTRIBUTING.md", ROOT / "docs" / "architecture.md"):
        names = re.findall(r"`((?:[\w.]+/)*[\w.]+\.(?:py|yaml|xml|md|toml)|(?:\w+/)+)`", document.read_text())
        assert len(names) > 20
        missing = {name for name in names if not any((place / name).exists() for place in places)}
        assert not missing, f"{document.name}: {missing}"


@pytest.mark.unit
def test_the_architecture_has_every_folder() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    rows = {
        name.rstrip("/") for name in re.findall(r"`([\w.]+/?)`", "".join(re.findall(r"^\| `.*$", text, re.MULTILINE)))
    }
    folders = {path.name for path in (ROOT / "aiofranka_ros").iterdir() if (path / "__init__.py").exists()}
    assert folders - rows == set()


@pytest.mark.unit
def test_links_between_documents_are_valid() -> None:
    for document in DOCUMENTS:
        for link in re.findall(r"\]\((?!https?:)([^)\s]+)\)", document.read_text()):
            path, _, anchor = link.partition("#")
            target = document.parent / path if path else document
            assert target.exists(), f"{document.name}: {link}"
            if anchor:
                headings = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE)
                anchors = {re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-") for heading in headings}
                assert anchor in anchors, f"{document.name}: {link}"


if __name__ == "__main__":
    for title, document, table in (
        *((title, REFERENCE, parameter_table(table)) for title, table in TABLES.items()),
        ("diagnostics", TROUBLESHOOTING, diagnostics_tables()),
    ):
        span = section(title, document).span("text")
        text = document.read_text()
        document.write_text(text[: span[0]] + table + text[span[1] :])
