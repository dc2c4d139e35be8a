"""Repeats tests and counts which of them fail: ``make stress``, or ``python tools/stress.py``.

    make stress                                      # the complete suite, five times
    make stress ARGS="test/test_shutdown.py" COUNT=50

A test that fails once in fifty runs is a defect as any other, and one run does not show it. Each run is a separate
process, as in ``make test``; the output of runs that fail is kept. The exit status is 1 if a test failed.
"""

from __future__ import annotations

import argparse
import collections
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
#: How long pytest gets to end its processes after Ctrl-C [s].
_PATIENCE = 60.0


def failures(report: Path) -> list[str]:
    """The tests that failed according to a JUnit report, once each; the run itself if it has no report."""
    try:
        cases = list(ElementTree.parse(report).iter("testcase"))
    except (OSError, ElementTree.ParseError):
        return ["(pytest ended without a report)"]
    failed = [case for case in cases if case.find("failure") is not None or case.find("error") is not None]
    return sorted({f"{case.get('classname', '').replace('.', '/')}.py::{case.get('name')}" for case in failed})


def table(counts: collections.Counter[str], runs: int, shown: Iterable[Path]) -> str:
    """What failed how often, the most frequent first."""
    if not counts:
        return f"{runs} runs, nothing failed."
    lines = [f"{runs} runs", f"{'failed':>7}  test"]
    lines += [f"{count:>4}/{runs:<3} {name}" for name, count in counts.most_common()]
    return "\n".join([*lines, *(f"see {path}" for path in shown)])


def run(command: list[str], log: Path) -> int:
    """The exit status of ``command``, whose output goes to ``log``; Ctrl-C ends it, too."""
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)
        try:
            return process.wait()
        except KeyboardInterrupt:  # A terminal sends it to both, a script only to this one.
            process.send_signal(signal.SIGINT)
            process.wait(_PATIENCE)
            raise
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()


def main(arguments: list[str] | None = None) -> int:
    """Repeat the tests.

    :returns: exit status: 0 if all passed in every run, 1 if not, 130 after Ctrl-C.
    """
    parser = argparse.ArgumentParser(
        prog="make stress COUNT=... ARGS=...",
        description="Repeat tests, and count which of them fail. All other arguments go to pytest.",
    )
    parser.add_argument("--count", type=int, default=5, help="how many runs [%(default)s]")
    parser.add_argument(
        "--output", type=Path, default=ROOT / "build" / "stress", help="folder for the logs [%(default)s]"
    )
    options, rest = parser.parse_known_args(arguments)
    options.output.mkdir(parents=True, exist_ok=True)
    for old in options.output.glob("run*"):
        old.unlink()
    counts: collections.Counter[str] = collections.Counter()
    kept: list[Path] = []
    runs, begin = 0, time.monotonic()
    try:
        for number in range(1, options.count + 1):
            log, report = options.output / f"run{number}.log", options.output / f"run{number}.xml"
            command = [sys.executable, "-m", "pytest", f"--junit-xml={report}", *(rest or ["--numprocesses", "2"])]
            status, runs = run(command, log), number
            # 5: no test was selected, which must not look like success.
            failed = failures(report) if status in (0, 1) else [f"(pytest ended with exit status {status})"]
            counts.update(failed)
            if failed:
                kept.append(log)
            else:
                log.unlink()
            report.unlink(missing_ok=True)
            print(
                f"run {number} of {options.count}, {time.monotonic() - begin:.0f} s: "
                + (", ".join(failed) if failed else "passed"),
                flush=True,
            )
    except KeyboardInterrupt:
        print(table(counts, runs, kept))
        return 130
    print(table(counts, runs, kept))
    return 1 if counts else 0


if __name__ == "__main__":
    sys.exit(main())
