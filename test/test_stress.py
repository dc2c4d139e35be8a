"""``make stress`` repeats tests and counts what failed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from common import ROOT

from aiofranka_ros.testing import wait_until

pytestmark = pytest.mark.unit

STRESS = ROOT / "tools" / "stress.py"


def stress(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(STRESS), "--output", str(tmp_path / "out"), "-p", "no:cacheprovider", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=100)


def test_what_fails_sometimes_is_counted_and_its_log_is_kept(tmp_path: Path) -> None:
    flaky = tmp_path / "test_flaky.py"
    flaky.write_text(
        "from pathlib import Path\n"
        f"runs = Path({str(tmp_path / 'runs')!r})\n"
        "def test_every_second_time():\n"
        "    runs.write_text(runs.read_text() + 'x' if runs.exists() else 'x')\n"
        "    assert len(runs.read_text()) % 2\n"
        "def test_always():\n"
        "    pass\n"
    )
    ran = stress(tmp_path, "--count", "4", str(flaky))
    assert ran.returncode == 1, ran.stdout + ran.stderr
    assert ran.stdout.count("passed") == 2
    assert "2/4" in ran.stdout and "test_every_second_time" in ran.stdout.splitlines()[-3]
    assert "test_always" not in ran.stdout
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["run2.log", "run4.log"]


def test_tests_that_pass_leave_no_log_and_exit_status_0(tmp_path: Path) -> None:
    (tmp_path / "test_good.py").write_text("def test_good(): pass\n")
    ran = stress(tmp_path, "--count", "2", str(tmp_path / "test_good.py"))
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "2 runs, nothing failed" in ran.stdout
    assert not list((tmp_path / "out").iterdir())


def test_a_selection_without_tests_is_no_success(tmp_path: Path) -> None:
    ran = stress(tmp_path, "--count", "1", str(tmp_path / "test_not_there.py"))
    assert ran.returncode == 1
    assert "exit status 4" in ran.stdout


def test_ctrl_c_shows_what_failed_so_far_and_ends_pytest_too(tmp_path: Path) -> None:
    started = tmp_path / "pid"
    (tmp_path / "test_slow.py").write_text(
        "import os, time\n"
        "def test_slow():\n"
        f"    open({str(started)!r}, 'w').write(str(os.getpid()))\n"
        "    time.sleep(90)\n"
    )
    command = [sys.executable, str(STRESS), "--output", str(tmp_path / "out"), "-p", "no:cacheprovider"]
    process = subprocess.Popen([*command, str(tmp_path)], stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        assert wait_until(lambda: started.exists() and started.read_text())
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "nothing failed" in said
    with pytest.raises(ProcessLookupError):
        os.kill(int(started.read_text()), 0)
