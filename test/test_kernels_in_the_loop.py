"""A control process that starts after a limit was changed uses the new limit, however the file was replaced."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from numba.core.caching import _CacheLocator
from test_kernels import PACKAGE, copy_package, environment_of, keep_time, run

from aiofranka_ros.simulation.simulated_arm import SimulatedArm

ARM = "127.0.0.84"
#: Runs the control process in torque mode and prints the largest torque of joint 6 [Nm].
FEEL_THE_SPRING = """
import sys, time
from aiofranka_ros.control.client import ControlClient
from aiofranka_ros.control.records import Mode

with ControlClient() as client:
    client.update({"heartbeat_timeout": 2.0}, mode=Mode.TORQUE)
    client.connect(sys.argv[1])
    client.activate()
    end = time.monotonic() + 0.5
    while time.monotonic() < end:
        client.set_torque((0.0,) * 7)
        client.beat()
        time.sleep(0.005)
    records, _, _ = client.shared.cycles.since(0)
    client.deactivate()
print(abs(records["tau"][:, 5]).max())
"""


def copy_compiled_code(package: Path) -> None:
    """Give a copy of the package the kernels that are compiled already: compiling all of them takes a minute."""
    for folder in (PACKAGE / "__pycache__" / "kernels").glob("*"):
        source = package.parent.joinpath(*folder.name.rpartition("-")[0].split(".")).with_suffix(".py")
        for files in folder.iterdir():
            name = _CacheLocator.get_suitable_cache_subpath(str(source))
            shutil.copytree(files, package / "__pycache__" / "kernels" / folder.name / name)


@pytest.mark.light
@pytest.mark.timeout(400)
def test_a_limit_that_was_replaced_with_the_same_time_and_size_is_in_force(tmp_path: Path) -> None:
    package = copy_package(tmp_path)
    copy_compiled_code(package)
    limits = package / "control" / "law" / "limits.py"
    before = limits.read_text()
    # Springs reach so far, need as much room, and lead the arm out of there: with 2 rad, they push everywhere.
    changed = before
    for name, value, other in (
        ("SOFT_LIMIT_MARGIN", "0.1", "2.0"), ("_SPRING_RANGE", "0.01", "2.00"), ("_SPRING_SPEED", "0.01", "9.99")
    ):  # fmt: skip
        assert f"{name} = {value}" in changed
        changed = changed.replace(f"{name} = {value}", f"{name} = {other}")
    with SimulatedArm(ARM) as arm:
        assert float(run(environment_of(package), "-c", FEEL_THE_SPRING, arm.host)) < 1.0
        keep_time(limits, changed)
        assert float(run(environment_of(package), "-c", FEEL_THE_SPRING, arm.host)) > 2.0
