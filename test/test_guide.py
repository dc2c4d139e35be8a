"""The code in the documents runs as printed, on a simulated arm, and does what the text says.

Each ``python`` block runs inside a coroutine, in order, in one namespace for each document. A block with a file name
next to ``python`` is written to that file, and the other blocks import it. ``Companion`` holds what the reader already
has, such as a model, and what to check after a section. Line numbers in tracebacks are those of the document.

``python test/test_guide.py`` rewrites the guide's table of round trips from the figures of ``make bench-offload``.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
import io
import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml
from common import ROOT, lose_packets
from isolated_objects import Planner

import aiofranka_ros
from aiofranka_ros import FrankaController, RobotInterface, errors
from aiofranka_ros.api.gripper import Gripper
from aiofranka_ros.arm.setting_table import SETTINGS
from aiofranka_ros.testing import descendants, wait_until

GUIDE = ROOT / "docs" / "async_mode.md"
API = ROOT / "docs" / "async_api.md"
PORTING = ROOT / "docs" / "from_aiofranka.md"
NOTEBOOKS = ROOT / "docs" / "notebooks.md"
POLICIES = ROOT / "docs" / "policies.md"
REAL_ARM = ROOT / "docs" / "real_arm.md"
_PIECES = re.compile(
    r"^#+ (?P<heading>[^\n]*)$"
    r"|^(?P<indent> *)```python(?: (?P<file>\S+))?\n(?P<code>.*?)^(?P=indent)```$"
    r"|^```.*?^```$",  # Another language: a comment of a shell is no heading.
    re.MULTILINE | re.DOTALL,
)
_TABLE = re.compile(r"(?P<begin><!-- bench-offload: begin.*?-->\n).*?(?P<end><!-- bench-offload: end -->)", re.DOTALL)

#: What runs after the code of a section. It gets the names that the code has defined, and may add to them.
After = Callable[[dict[str, Any]], Awaitable[None]]


@dataclass
class Piece:
    """A block of code in a document.

    :ivar line: line of the document before its first line.
    :ivar heading: section that it is in.
    :ivar file: file that it is written to; empty if it runs in the event loop.
    """

    line: int
    heading: str
    file: str
    code: str


@dataclass
class Companion:
    """What a document's code needs and the reader does not see.

    :ivar names: what the reader has or would install.
    :ivar files: beginnings of the files that the document writes, by name.
    :ivar after: checks and preparations, by the heading of the section that they follow.
    """

    names: dict[str, Any] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    after: dict[str, After] = field(default_factory=dict)


def pieces(document: Path) -> list[Piece]:
    text = document.read_text()
    found, heading = [], ""
    for match in _PIECES.finditer(text):
        if match["heading"]:
            heading = match["heading"]
        elif match["code"]:
            line = text.count("\n", 0, match.start()) + 1
            found.append(Piece(line, heading, match["file"] or "", textwrap.dedent(match["code"])))
    return found


async def run(document: Path, folder: Path, names: dict[str, Any], companion: Companion) -> None:
    """Run all code of ``document``; its files go to ``folder``, from which they can be imported.

    :param names: the namespace; in the end it has everything that the code defined.
    """
    names |= companion.names
    for name, text in companion.files.items():
        (folder / name).write_text(text)
    after = dict(companion.after)
    code = pieces(document)
    for piece, following in zip(code, [*code[1:], None], strict=True):
        if piece.file:
            with (folder / piece.file).open("a") as file:
                file.write(piece.code)
        else:
            tree = ast.increment_lineno(ast.parse(piece.code), piece.line)
            result = eval(compile(tree, str(document), "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT), names)
            if inspect.isawaitable(result):
                await result
        if piece.heading in after and (following is None or following.heading != piece.heading):
            await after.pop(piece.heading)(names)
    assert not after, f"{document.name} has no code in: {', '.join(after)}"


async def run_and_clean_up(document: Path, folder: Path, names: dict[str, Any], companion: Companion) -> None:
    try:
        await run(document, folder, names, companion)
    finally:
        for value in list(names.values()):
            if isinstance(value, FrankaController):
                await value.stop()


# --- What the guide's reader has, and what is true after its sections


class Policy:
    @staticmethod
    def get_action(observation: Any) -> np.ndarray:
        return model(observation)


def model(pose: Any) -> np.ndarray:
    time.sleep(0.003)
    return np.array(pose)


async def start_the_arm(names: dict[str, Any]) -> None:
    await names["controller"].start()
    names["obs"] = names["input_tensor"] = names["controller"].initial_ee


async def the_guard_saw_the_block(names: dict[str, Any]) -> None:
    assert names["controller"].running
    while not names["controller"].guard.blocks:  # The guard looks at it in its own thread.
        await asyncio.sleep(0.01)


async def the_policy_has_answered(names: dict[str, Any]) -> None:
    assert names["horizon"] == 8
    np.testing.assert_array_equal(names["action"], names["obs"])


async def three_chunks_were_played(names: dict[str, Any]) -> None:
    lateness = names["controller"].lateness()  # How late it was depends on the machine.
    assert (lateness.name, lateness.asked, lateness.turns) == ("ee_desired", 20.0, 23)


async def arrays_are_read_only_and_no_cycle_is_lost(names: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="read-only"):
        names["controller"].ee_desired[2, 3] += 0.01
    assert names["report"].cycles_lost == 0


async def the_arm_is_active_again(names: dict[str, Any]) -> None:
    assert names["controller"].running


GUIDES = Companion(
    names={
        "asyncio": asyncio,
        "np": np,
        "time": time,
        "checkpoint": "checkpoint.pt",
        "load_model": lambda checkpoint: model,
        "model": model,
        "policy": Policy(),
        "warm_up_inference": lambda model: model(np.eye(4)),
        "cv2": SimpleNamespace(imread=lambda path: np.zeros((480, 640, 3), np.uint8)),
        "requests": SimpleNamespace(get=lambda address: None),
    },
    files={
        "my_policy.py": textwrap.dedent("""\
            import numpy as np

            def load_model(checkpoint, device):
                return np.array, {}

            class PolicyWrapper:
                def __init__(self, model, config, device):
                    self.model = model
                    self.horizon = 8

                def reset(self, initial_ee):
                    self.initial_ee = initial_ee

                def get_action(self, observation):
                    return self.model(observation)

        """)
    },
    after={
        "Async mode": start_the_arm,
        "What blocks the event loop": the_guard_saw_the_block,
        "mpify": the_policy_has_answered,
        "A policy that is slower than its rate": three_chunks_were_played,
        "State": arrays_are_read_only_and_no_cycle_is_lost,
        "Errors and recovery": the_arm_is_active_again,
    },
)


async def the_script_has_moved_and_ended(names: dict[str, Any]) -> None:
    controller = names["controller"]
    assert not controller.running
    assert abs(controller.state["ee"][2, 3] - names["desired_ee"][2, 3]) < 0.01


PORTINGS = Companion(after={"Coming from aiofranka": the_script_has_moved_and_ended})


@pytest.fixture
def node(tmp_path: Path) -> Iterator[int]:
    """The process id of a node with its default name."""
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    with (tmp_path / "node.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "aiofranka_ros.node"], stdout=log, stderr=subprocess.STDOUT, env=environment
        )
    try:
        yield process.pid
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(30.0) == 0, (tmp_path / "node.log").read_text()


@pytest.fixture
def surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What all documents get: a standard input with Enter pressed, importable files, and a policy that fails."""
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n" * 10))
    monkeypatch.syspath_prepend(str(tmp_path))
    mine = descendants(os.getpid())

    def provoke_reflex() -> None:
        """Send the robot nothing for more cycles than it tolerates."""
        (control_process,) = (
            pid for pid in descendants(os.getpid()) - mine if "aiofranka_ros.control.process" in _command(pid)
        )
        lose_packets(control_process)

    async def run_policy(controller: FrankaController) -> None:
        provoke_reflex()
        async for _ in controller.states():
            pass

    return {"__name__": "guide", "run_policy": run_policy}


@pytest.mark.timeout(300)  # Everything in one run, perhaps on a busy machine; 25 s on an idle one.
def test_the_code_of_the_guide_runs_as_printed(
    node: int, surroundings: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = _of_this_process(node)
    asyncio.run(run_and_clean_up(GUIDE, tmp_path, surroundings, GUIDES))
    assert "('communication_constraints_violation',)" in capsys.readouterr().out
    # The simulated arm, the control process and the guide's policies have ended.
    assert wait_until(lambda: not _of_this_process(node) - before)


@pytest.mark.timeout(300)
def test_the_script_in_the_page_about_porting_runs_as_printed(surroundings: dict[str, Any], tmp_path: Path) -> None:
    asyncio.run(run_and_clean_up(PORTING, tmp_path, surroundings, PORTINGS))


@pytest.mark.timeout(300)
def test_the_policy_in_the_page_about_policies_drives_the_arm_as_printed(tmp_path: Path) -> None:
    (code,) = (piece.code for piece in pieces(POLICIES) if piece.heading == "A policy that plans in chunks")
    (tmp_path / "section.md").write_text(f"```python\n{code}```\n")
    cameras = SimpleNamespace(read=lambda: {"image": np.zeros((480, 640, 3), np.uint8)})
    names = {"make_policy": Planner, "cameras": cameras}
    asyncio.run(run_and_clean_up(tmp_path / "section.md", tmp_path, names, Companion()))
    report = names["run"].report()  # type: ignore[attr-defined]
    assert report.chunks > 1 and not report.refused


def test_the_cells_of_the_page_about_notebooks_run_in_a_running_event_loop(tmp_path: Path) -> None:
    async def run_policy(controller: FrankaController) -> None:
        assert not controller.running

    names = {"asyncio": asyncio, "run_policy": run_policy}
    asyncio.run(run_and_clean_up(NOTEBOOKS, tmp_path, names, Companion()))
    assert names["controller"].state["qpos"].shape == (7,)


@pytest.mark.unit
def test_the_settings_in_the_page_about_the_real_arm_are_accepted(tmp_path: Path) -> None:
    names: dict[str, Any] = {"RobotInterface": RobotInterface}
    asyncio.run(run(REAL_ARM, tmp_path, names, Companion()))
    # The command for the node has the same ones.
    for name, value in re.findall(r'-p "?(\w+):=(\[[^]]*\]|[^\s"]+)', REAL_ARM.read_text().partition("## When")[0]):
        given = yaml.safe_load(value)
        np.testing.assert_array_equal(names["robot"].settings[name], given)


def _of_this_process(node: int) -> set[int]:
    """Children of this process, except those of ``node`` and multiprocessing's resource tracker, which stays."""
    children = descendants(os.getpid()) - descendants(node)
    return {pid for pid in children if "resource_tracker" not in _command(pid)}


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:  # It has just ended.
        return ""


@pytest.mark.parametrize(
    "call",
    [
        "await controller.start()",
        "await controller.move()",
        'await controller.set("ee_desired", action)',
        "from aiofranka_ros import asyncify",
        "    @asyncify\n    def get_action(self, obs):\n",
        "model_async = asyncify(model)",
        "await policy.get_action(obs)",
        "await model_async(input_tensor)",
        "policy.get_action.sync(obs)",
        'await async_input("Press Enter to start...")',
        "await asyncio.sleep(0.1)",
        "await loop.run_in_executor(None, model, input_tensor)",
        "infer = CudaInferenceThread()",
        "infer.start()",
        "await infer.run(policy.get_action",
        "@infer.wrap\ndef get_action(obs):\n",
        "action = await get_action(obs)",
        "get_action.sync(obs)",
        "infer.stop()",
        'policy = mpify(make_policy, "checkpoint.pt", "cuda:0")',
        "await policy.reset(initial_ee)",
        "policy.stop()",
        "model = load_model(checkpoint)",
        "warm_up_inference(model)",
    ],
)
@pytest.mark.unit
def test_every_call_of_aiofrankas_guide_is_in_this_one(call: str) -> None:
    assert any(call in piece.code for piece in pieces(GUIDE))


@pytest.mark.unit
def test_settings_have_the_values_given_in_the_documents() -> None:
    defaults = {setting.name: setting.default for setting in SETTINGS}
    given = [
        (name, float(value))
        for document in (GUIDE, PORTING)
        for name, value in re.findall(r"`(\w+)` \((\d[\d.]*)(?: \w+)?\)", document.read_text())
    ]
    assert len(given) >= 4
    for name, value in given:
        assert defaults[name] == value


@pytest.mark.unit
def test_every_exception_in_the_guide_exists() -> None:
    rows = re.findall(r"^\| (`[A-Z].*?) \|", GUIDE.read_text().partition("## Errors")[2], re.MULTILINE)
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert len(named) >= 7 and all(issubclass(getattr(errors, name), errors.FrankaError) for name in named)


@pytest.mark.unit
def test_the_page_of_the_api_names_everything_public_and_nothing_else() -> None:
    sections = dict(re.findall(r"^## (.*)\n((?:(?!^## ).*\n)*)", API.read_text(), re.MULTILINE))
    rows = re.findall(r"^\| (`.*?) \|", sections["Calls"] + sections["Attributes"], re.MULTILINE)
    named = set(re.findall(r"`(?:await |async for \w+ in )?(\w+)", " ".join(rows)))
    public = {name for name in (*dir(FrankaController), *FrankaController.__annotations__) if not name.startswith("_")}
    assert named == public - {"robot", "state_lock"}  # Both are in the text.
    rows = re.findall(r"^\| (`.*?) \|", sections["The gripper"], re.MULTILINE)
    named = set(re.findall(r"`(?:await )?(\w+)", " ".join(rows)))
    assert named == {name for name in dir(Gripper) if not name.startswith("_")}
    helpers = set(
        re.findall(r"`@?(?:await )?(\w+)", sections["The way to an arm"] + sections["Work off the event loop"])
    )
    assert set(aiofranka_ros.__all__) <= helpers


@pytest.mark.unit
def test_the_guide_has_a_place_for_the_measured_round_trips() -> None:
    assert _TABLE.search(GUIDE.read_text()) is not None


def table(figures: dict[str, dict[str, dict[str, float]]]) -> str:
    """Round trips, as the guide shows them.

    :param figures: ``round_trip_us`` of the benchmark's report.
    """
    titles = {
        "asyncify": "`asyncify`",
        "cuda_inference_thread": "`CudaInferenceThread`",
        "run_in_executor": "`loop.run_in_executor`",
        "mpify": "`mpify`",
        "pipe": "a `multiprocessing.Pipe`",
    }
    lines = ["| | 7-vector | 640×480×3 image | four images |", "|---|---|---|---|"]
    for name, title in titles.items():
        cells = [f"{one['p50']:,.0f} / {one['p99']:,.0f}" for one in figures[name].values()]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    report = json.loads((ROOT / "build" / "bench" / "offload.json").read_text())
    written = table(report["round_trip_us"])
    GUIDE.write_text(_TABLE.sub(lambda found: found["begin"] + written + found["end"], GUIDE.read_text()))
