"""The verdict about a recording: the staged cause is what its first line says. No arm, no ROS graph."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from common import ROOT
from story import MS, Story

from aiofranka_ros.control.records import Limit
from aiofranka_ros.control.robot_records import ERROR_NAMES
from aiofranka_ros.explain.__main__ import main
from aiofranka_ros.explain.evidence import Evidence
from aiofranka_ros.explain.names import MEANINGS
from aiofranka_ros.explain.rules import LATE, RULES, Verdict, judge
from aiofranka_ros.model import fr3

pytestmark = pytest.mark.unit


def collision(story: Story) -> None:
    story.moving().stopped("joint_reflex", "cartesian_reflex")
    story.ticks["state"]["external_wrench"][story.after, 1] = -43.0


def collision_of_a_joint(story: Story) -> None:
    story.stopped("joint_reflex")
    story.ticks["state"]["tau_external"][story.after, 3] = 27.0


def velocity(story: Story) -> None:
    story.stopped("joint_velocity_violation").moving()
    story.cycles["dq"][-20:, 6] = np.linspace(0.2, 5.1, 20)


def velocity_as_asked(story: Story) -> None:
    story.stopped("joint_velocity_violation").moving()
    story.cycles["dq"][-200:, 2] = story.cycles["dq"][-200:, 2] + 2.6
    story.cycles["ref_q"][-200:, 2] += 2.6e-3 * np.arange(200)


def altered_command(story: Story) -> None:
    story.stopped("controller_torque_discontinuity")


def jump(story: Story) -> None:
    story.stopped("controller_torque_discontinuity")
    story.cycles["tau"][-1, 4] = 3.0


def self_collision(story: Story) -> None:
    story.moving().stopped("self_collision_avoidance_violation")


def end_of_a_range(story: Story) -> None:
    story.stopped("joint_position_limits_violation")
    story.cycles["q"][-50:, 3] = fr3.POSITION_UPPER[3] - 0.004


def answers_lost(story: Story) -> None:
    story.stopped("communication_constraints_violation")
    story.cycles["success_rate"][-19:] = 1.0 - 0.01 * np.arange(1, 20)


def states_lost(story: Story) -> None:
    story.stopped("communication_constraints_violation").silent(30)
    story.summary["trigger"] = "robot stopped"


def control_process_suspended(story: Story) -> None:
    states_lost(story)
    story.ticks["control_code"][story.ticks["control_code"] > 0] = ord("T")


def suspended_but_it_answered_once_more(story: Story) -> None:
    """The state that waited for the control process while it was stopped."""
    story.stopped("communication_constraints_violation")
    story.cycles["stamp"][:-1] -= 40 * MS
    during = (story.ticks["stamp"] > story.end - 38 * MS) & (story.ticks["stamp"] < story.end)
    story.ticks["control_code"][during] = ord("T")


def processor_taken(story: Story) -> None:
    states_lost(story)
    story.ticks["control_waited"][story.ticks["stamp"] > story.end] = 29 * MS


def computer_stood_still(story: Story) -> None:
    states_lost(story)
    story.ticks = story.ticks[(story.ticks["stamp"] <= story.end) | (story.ticks["stamp"] >= story.noticed)]


def answers_late(story: Story) -> None:
    answers_lost(story)
    story.cycles["response"][-19:] = 1.4e-3


def node_silent(story: Story) -> None:
    story.stopped(robot_mode=1)
    story.summary["message"] = "no heartbeat from its owner: the arm stopped and was released"
    silence = (story.ticks["stamp"] > story.end - 600 * MS) & (story.ticks["stamp"] < story.noticed)
    story.ticks["state"]["silent_holds"][story.ticks["stamp"] >= story.noticed] = 1
    story.ticks = story.ticks[~silence]


def node_starved(story: Story) -> None:
    node_silent(story)
    story.ticks["owner_waited"][story.ticks["stamp"] >= story.noticed] = 590 * MS


def control_process_killed(story: Story) -> None:
    story.silent(20)
    story.summary |= {"trigger": "control process died", "exit_code": -9, "message": "killed by signal 9"}


def control_process_crashed(story: Story) -> None:
    control_process_killed(story)
    story.summary["exit_code"] = -11


def control_process_stopped(story: Story) -> None:
    control_process_killed(story)
    story.summary["exit_code"] = None
    story.ticks["control_code"][story.ticks["control_code"] > 0] = ord("T")


def control_process_hung(story: Story) -> None:
    control_process_stopped(story)
    story.summary["message"] = "the control process did not release the arm within 5 s"
    story.ticks["control_code"] = 0


def control_process_ended(story: Story) -> None:
    control_process_killed(story)
    story.summary["exit_code"] = 1


def user_stop(story: Story) -> None:
    story.stopped(robot_mode=5)


def guided(story: Story) -> None:
    story.stopped(robot_mode=3)


def robot_gone(story: Story) -> None:
    story.stopped(robot_mode=2).silent(1500)
    story.ticks["state"]["phase"] = 3


def cycles_lost(story: Story) -> None:
    story.summary |= {"trigger": "cycles lost"}
    story.cycles["lost"][-300] = 12
    story.cycles["stamp"][:-300] -= 12 * MS
    story.noticed = story.end - 290 * MS


def crowded_processors(story: Story) -> None:
    """Many short losses: each after an answer to a state that had waited for the process."""
    story.summary |= {"trigger": "cycles lost"}
    story.noticed = story.end - 500 * MS
    for row in range(-480, -80, 40):
        story.cycles["lost"][row] = 2
        story.cycles["stamp"][row - 1] += 3 * MS // 2
    busy = np.cumsum(np.where(np.abs(story.ticks["stamp"] - story.end + 280 * MS) < 210 * MS, 2 * MS, 0))
    story.ticks["control_waited"] = busy


def on_request(story: Story) -> None:
    pass


@pytest.mark.parametrize(
    "change, words",
    [
        (
            collision,
            "A collision: something pushed the arm harder than allowed (force along y of the base: 43 N, 215 %",
        ),
        (collision_of_a_joint, "A collision: something pushed the arm harder than allowed (joint 4: 27 Nm, 150 %"),
        (velocity, "Too fast (velocity violation): joint 7: 5.1 rad/s, 97 % of 5.26 rad/s. It was not asked"),
        (velocity_as_asked, "Too fast (velocity violation): joint 3: 2.6 rad/s, 99 % of 2.62 rad/s."),
        (altered_command, "A torque discontinuity that was not sent"),
        (jump, "A torque discontinuity: the commanded torque jumped (joint 5: 3e+03 Nm/s, 300 %"),
        (self_collision, "A self-collision: the arm came too close to itself, on the way of ~/move."),
        (end_of_a_range, "A joint came to the end of its range: joint 4, 0.004 rad before it."),
        (answers_lost, "because 19 answers in a row left this computer in time, but did not reach the robot"),
        (states_lost, "because no state of the robot arrived for 25 ms: packets were lost"),
        (control_process_suspended, "because a signal or a debugger had stopped the control process"),
        (
            suspended_but_it_answered_once_more,
            "because a signal or a debugger had stopped the control process for 41 ms",
        ),
        (processor_taken, "because other programs took the processor: the control process waited for one for 29 ms"),
        (computer_stood_still, "because the whole computer stood still for 25 ms: the node /aiofranka was silent"),
        (answers_late, "because 19 answers left too late, up to 1400 us after their state"),
        (node_silent, "The node /aiofranka was stopped or hung for 610 ms and sent no heartbeat"),
        (node_starved, "Other programs kept the node /aiofranka from a processor for 590 ms"),
        (control_process_killed, "The control process was killed (SIGKILL)"),
        (control_process_crashed, "The control process was killed (SIGSEGV)"),
        (control_process_stopped, "The control process was stopped by a signal or a debugger"),
        (control_process_hung, "The control process did not answer any more: the control process did not release"),
        (control_process_ended, "The control process ended by itself"),
        (user_stop, "A person pressed the user stop."),
        (guided, "A person took the arm by hand: its guiding buttons were pressed."),
        (robot_gone, "The robot was lost: nothing came from it for 1495 ms"),
        (cycles_lost, "The arm did not stop, but 12 cycles were lost, because no state of the robot arrived for 13 ms"),
        (crowded_processors, "but 20 cycles were lost, because other programs took the processor"),
        (on_request, "Nothing stopped the arm: recorded on request, and no cycle was lost."),
    ],
)
def test_the_first_line_names_the_cause(change: Callable[[Story], None], words: str, tmp_path: Path) -> None:
    assert words in verdict_of(change, tmp_path).sentence


def verdict_of(change: Callable[[Story], None], folder: Path) -> Verdict:
    story = Story()
    change(story)
    return judge(Evidence(story.recording(folder)))


@pytest.mark.parametrize("name", ERROR_NAMES)
def test_every_error_of_libfranka_has_plain_words_and_something_to_try(name: str, tmp_path: Path) -> None:
    verdict = verdict_of(lambda story: story.stopped(name), tmp_path)
    assert verdict.tries and not re.search(r"[{}]", verdict.sentence + "".join(verdict.tries))
    assert "_" not in MEANINGS[name].words
    assert verdict.sentence.endswith(".") and verdict.sentence.count("\n") == 0


def test_an_arm_that_was_never_active_still_gets_a_verdict(tmp_path: Path) -> None:
    story = Story(0).stopped("joint_reflex")
    story.ticks = story.ticks[:0]
    verdict = judge(Evidence(story.recording(tmp_path)))
    assert "A collision" in verdict.sentence


def test_every_rule_can_be_told_from_the_others_and_every_one_ends_somewhere() -> None:
    assert RULES[-1].holds.__name__ == LATE[-1].holds.__name__ == "<lambda>"
    assert len({rule.says for rule in (*RULES, *LATE)}) == len(RULES) + len(LATE)
    assert all(rule.tries or "{late}" in rule.says or rule.name in ("asked", "other errors") for rule in RULES)


def test_only_the_activation_in_which_it_happened_counts(tmp_path: Path) -> None:
    def change(story: Story) -> None:
        altered_command(story)
        story.cycles["activation"][:1000] = 0
        story.cycles["lost"][500] = 19

    assert "not sent" in verdict_of(change, tmp_path).sentence


def test_cycles_after_a_recovery_are_not_mistaken_for_those_before_the_stop(tmp_path: Path) -> None:
    story = Story()
    velocity(story)
    story.noticed = story.end - 500 * MS  # The rest is of the activation after it.
    story.cycles["activation"][-500:] = 2
    story.cycles["dq"][:-500][-20:, 5] = 4.1
    sentence = judge(Evidence(story.recording(tmp_path))).sentence
    assert "joint 6: 4.1 rad/s" in sentence


def explain(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    status = main([str(argument) for argument in arguments])
    said = capsys.readouterr()
    return status, said.out, said.err


def test_the_page_says_the_verdict_what_was_asked_for_and_who_was_late(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    story = Story()
    collision(story)
    story.targets = [
        (story.end - (500 - 20 * k) * MS, "ee_desired", (0.3, 0.0, 0.001 * k**2, 0, 0, 0, 1)) for k in range(25)
    ]
    story.ticks["state"]["limited_targets"][-100:, Limit.MAX_LINEAR_STEP] = 7
    story.events.append((story.end - 900 * MS, "refusal", "a target on ~/q_desired: the mode is osc", {"sender": "/x"}))
    story.events.append((story.end - 300 * MS, "parameters", "ee_kp, mode", {}))
    story.lines.append((story.noticed, "error", "the robot stopped [bold]: joint_reflex"))
    path = story.save(tmp_path)
    status, out, _ = explain(capsys, path)
    assert status == 0 and out.splitlines()[0].startswith("A collision: ")
    for words in (
        "215 %  external force  force along y of the base: 43 of 20 N",
        "~/move (goal [0.0, ",
        "the last target: ee_desired from /policy, [0.300 0.000 0.576 ",
        "20 ms before",
        "largest step between two targets in the last 0.5 s: 0.0470 on ee_desired",
        "max_linear_step (7)",
        "parameters changed 300 ms before: ee_kp, mode",
        "900 ms before: a target on ~/q_desired: the mode is osc",
        "+0.005 s  the robot stopped [bold]: joint_reflex",
        "answers in the last second: 25 us after their state (median)",
        "1. remove what was in the way, then activate again",
        str(path),
    ):
        assert words in out


def test_the_page_as_html_has_the_same_words_and_plots_and_needs_no_other_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    story = Story()
    velocity(story)
    story.lines.append((story.end, "info", "<script>alert(1)</script>"))
    page = tmp_path / "page.html"
    status, _, errors = explain(capsys, story.save(tmp_path), "--output", page)
    text = page.read_text()
    assert status == 0 and str(page) in errors
    assert "<h1>Too fast (velocity violation): joint 7" in text and "<svg" in text and "joint 7</text>" in text
    assert "<script" not in text and "http-equiv" not in text and not re.search(r'(src|href)="http', text)


def test_without_a_file_the_newest_one_is_explained_and_all_are_listed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROS_HOME", str(tmp_path))
    folder = tmp_path / "aiofranka"
    for change in (user_stop, collision):
        story = Story()
        change(story)
        story.save(folder)
    assert explain(capsys)[1].startswith("A collision")
    assert explain(capsys, "--folder", folder, "--json")[0] == 0
    listed = explain(capsys, "--list")[1].splitlines()
    assert [line.partition("  ")[2][:10] for line in listed] == ["A person p", "A collisio"]
    (folder / listed[0].split()[0]).unlink()
    assert len(explain(capsys, "--list")[1].splitlines()) == 1


def test_json_has_the_verdict_and_its_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    story = Story()
    velocity(story)
    found = json.loads(explain(capsys, story.save(tmp_path), "--json")[1])
    assert found["rule"] == "velocity by a push" and found["errors"] == ["joint_velocity_violation"]
    assert found["limits"][0] == pytest.approx(
        {"kind": "velocity", "what": "joint 7", "value": 5.1, "limit": 5.26, "share": 0.97}
    )


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("missing.mcap", None, r"cannot read .*missing.mcap: No such file"),
        ("text.mcap", b"hello, this is no recording\n" * 20, r"text.mcap is not a recording of this package"),
        ("empty.mcap", b"", r"empty.mcap is not a recording of this package"),
        ("folder", "folder", r"cannot read .*folder: Is a directory"),
    ],
)
def test_what_is_not_a_recording_is_refused_in_one_line(
    name: str, content: bytes | str | None, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / name
    if content == "folder":
        path.mkdir()
    elif isinstance(content, bytes):
        path.write_bytes(content)
    status, out, errors = explain(capsys, path)
    assert status == 1 and out == ""
    assert re.fullmatch(rf"failed: .*{message}.*\n", errors)


def test_an_empty_folder_and_a_page_that_cannot_be_written_are_one_line_each(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, _, errors = explain(capsys, "--folder", tmp_path / "none")
    assert status == 1 and errors.startswith(f"failed: there is no recording in {tmp_path / 'none'}")
    assert errors.count("\n") == 1
    pytest.importorskip("matplotlib")
    status, _, errors = explain(capsys, Story().save(tmp_path), "--output", "/dev/full")
    assert status == 1 and errors == "failed: cannot write /dev/full: No space left on device\n"
    with pytest.raises(SystemExit):
        main(["--output", str(tmp_path / "none" / "page.html")])
    assert "there is no folder" in capsys.readouterr().err


def test_it_needs_no_ros(tmp_path: Path) -> None:
    story = Story()
    user_stop(story)
    code = (
        "import sys\nsys.modules['rclpy'] = None\nfrom aiofranka_ros.explain.__main__ import main\nmain(sys.argv[1:])"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code, str(story.save(tmp_path))], env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert ran.stdout.startswith("A person pressed the user stop.\n")
