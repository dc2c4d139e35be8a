"""The program behind :mod:`aiofranka_ros.explain.__main__`: find the recording, judge it, show it.

Runs in the main thread of its process, the only one.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from rich.console import Console

from aiofranka_ros.arm.setting_table import SETTINGS
from aiofranka_ros.errors import Interrupted, RecordingFailed
from aiofranka_ros.explain.evidence import Evidence
from aiofranka_ros.explain.report import Report
from aiofranka_ros.explain.rules import judge
from aiofranka_ros.processes import StopRequest
from aiofranka_ros.recording.folder import folder_of, newest, recordings
from aiofranka_ros.recording.reader import read


def main(options: argparse.Namespace, stop: StopRequest) -> int:
    """Explain; return the exit status."""
    out, errors = Console(highlight=False, soft_wrap=True), Console(stderr=True, highlight=False, soft_wrap=True)
    default = next(str(setting.default) for setting in SETTINGS if setting.name == "recording_folder")
    folder = folder_of(options.folder or default)
    try:
        if options.list:
            return _list(recordings(folder), folder, stop, out)
        report = _report(options.file or newest(folder))
        stop.check()
        if options.json:
            out.print(json.dumps(report.values(), indent=2), markup=False)
        else:
            report.show(out)
        if options.output is not None:
            from aiofranka_ros.explain import page  # It needs matplotlib, which takes a second.

            page.write(report, options.output)
            errors.print(f"written to {options.output}", markup=False)
    except RecordingFailed as error:
        return _failed(errors, str(error))
    except ImportError as error:
        return _failed(errors, f"no page, because matplotlib is missing (pip install matplotlib): {error}")
    except OSError as error:
        return _failed(errors, f"cannot write {options.output}: {error.strerror}")
    except Interrupted:
        errors.print("interrupted")
        return stop.exit_status
    return 0


def _report(path: Path) -> Report:
    evidence = Evidence(read(path))
    return Report(evidence, judge(evidence))


def _list(paths: list[Path], folder: Path, stop: StopRequest, out: Console) -> int:
    """One line for each recording."""
    if not paths:
        newest(folder)  # Raises, with the reason.
    for path in paths:
        stop.check()
        try:
            text = _report(path).verdict.sentence
        except RecordingFailed as error:
            text = str(error)
        out.print(f"{path.name}  {text}", markup=False)
    return 0


def _failed(errors: Console, message: str) -> int:
    errors.print("[bold red]failed:[/] ", end="")
    errors.print(message, markup=False)
    return 1
