"""The documents are true: their code runs as it stands, on a simulated arm, and does what they say.

Each ``python`` block of a document runs inside a coroutine, in order, in one namespace. A block that has a file's name
beside ``python`` is in that file instead, from which the others import it. Comments ``<!-- setup: -->`` hold what a
reader has already, such as a model; ``<!-- check: -->`` what a document says about the block before. Line numbers in
tracebacks are those of the document.

``python test/test_guide.py`` writes the guide's table of round trips anew, from the figures of ``make bench-offload``.
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
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from injection import lose_packets
from node_harness import ROOT, descendants, wait_until

from aiofranka_ros import FrankaController, errors
from aiofranka_ros.arm.setting_table import SETTINGS

GUIDE = ROOT / "docs" / "async_mode.md"
PORTING = ROOT / "docs" / "from_aiofranka.md"
_PIECES = re.compile(
    r"^```python(?: (?P<file>\S+))?\n(?P<code>.*?)^```$"
    r"|^<!-- (?:setup|check)(?: (?P<hidden_file>\S+))?:\n(?P<hidden>.*?)^-->$",
    re.MULTILINE | re.DOTALL,
)
_TABLE = re.compile(r"(?P<begin><!-- bench-offload: begin.*?-->\n).*?(?P<end><!-- bench-offload: end -->)", re.DOTALL)


@dataclass
class Piece:
    """Code of a document.

    :ivar line: of the document, before its first line.
    :ivar file: in which it belongs; empty where it runs in the event loop.
    """

    line: int
    file: str
    code: str


def pieces(document: Path) -> list[Piece]:
    text = document.read_text()
    return [
        Piece(
            line=text.count("\n", 0, found.start()) + 1,
            file=found["file"] or found["hidden_file"] or "",
            code=found["code"] or found["hidden"],
        )
        for found in _PIECES.finditer(text)
    ]


async def run(document: Path, folder: Path, names: dict[str, Any]) -> None:
    """Run all code of ``document``; files of it go to ``folder``, from which they can be imported.

    :param names: the namespace, with what the surroundings give; has everything that the code defines afterwards.
    """
    for piece in pieces(document):
        if piece.file:
            with (folder / piece.file).open("a") as file:
                file.write(piece.code)
            continue
        tree = ast.increment_lineno(ast.parse(piece.code), piece.line)
        code = compile(tree, str(document), "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        result = eval(code, names)
        if inspect.isawaitable(result):
            await result


async def run_and_clean_up(document: Path, folder: Path, names: dict[str, Any]) -> None:
    try:
        await run(document, folder, names)
    finally:
        for value in list(names.values()):
            if isinstance(value, FrankaController):
                await value.stop()


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
    """What documents find: somebody who presses Enter, a way to import their files, a way to stop the robot."""
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n" * 10))
    monkeypatch.syspath_prepend(str(tmp_path))
    mine = descendants(os.getpid())

    def provoke_reflex() -> None:
        """Send the robot nothing for more cycles than it puts up with."""
        (control_process,) = (
            pid for pid in descendants(os.getpid()) - mine if "aiofranka_ros.control.process" in _command(pid)
        )
        lose_packets(control_process)

    return {"__name__": "guide", "provoke_reflex": provoke_reflex}


@pytest.mark.timeout(300)  # Everything in one run, on a machine that may be busy; 25 s on an idle one.
def test_the_code_of_the_guide_runs_as_it_stands(
    node: int, surroundings: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = _of_this_process(node)
    asyncio.run(run_and_clean_up(GUIDE, tmp_path, surroundings))
    assert "('communication_constraints_violation',)" in capsys.readouterr().out
    # Of the simulated arm, the control process and the policies of the guide, none is left.
    assert wait_until(lambda: not _of_this_process(node) - before)


@pytest.mark.timeout(300)
def test_what_is_said_about_porting_is_true(surroundings: dict[str, Any], tmp_path: Path) -> None:
    asyncio.run(run_and_clean_up(PORTING, tmp_path, surroundings))


def _of_this_process(node: int) -> set[int]:
    """Children of this process, those of ``node`` and multiprocessing's resource tracker, which stays, left out."""
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
def test_every_call_of_aiofrankas_guide_is_in_this_one(call: str) -> None:
    assert any(call in found["code"] for found in _PIECES.finditer(GUIDE.read_text()) if found["code"])


def test_settings_have_the_values_that_the_documents_give_them() -> None:
    defaults = {setting.name: setting.default for setting in SETTINGS}
    given = [
        (name, float(value))
        for document in (GUIDE, PORTING)
        for name, value in re.findall(r"`(\w+)` \((\d[\d.]*)(?: \w+)?\)", document.read_text())
    ]
    assert len(given) >= 4
    for name, value in given:
        assert defaults[name] == value


def test_the_guide_names_no_exception_that_does_not_exist() -> None:
    rows = re.findall(r"^\| (`[A-Z].*?) \|", GUIDE.read_text().partition("## Errors")[2], re.MULTILINE)
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert len(named) >= 7 and all(issubclass(getattr(errors, name), errors.FrankaError) for name in named)


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
