"""A storm of lifecycle transitions, legal and illegal, while clients send targets and moves."""

from __future__ import annotations

import os
import random
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.faults.catalogue import fault
from bench.faults.processes import check_ordinary_move, check_reflex
from bench.faults.rig import SWING, Findings, Rig

#: The requested transitions and their relative frequency. Cleaning up and configuring again takes seconds, the others
#: do not. The numbers belong to transitions that no client may request, or that do not exist.
_REQUESTS: dict[tuple[str, int], float] = {
    ("configure", 0): 6.0,
    ("activate", 0): 10.0,
    ("deactivate", 0): 10.0,
    ("cleanup", 0): 0.5,
    ("", 0): 1.0,  # create
    ("", 2): 0.2,  # cleanup, by its number
    ("", 8): 1.0,  # destroy
    ("", 10): 1.0,  # the result of a transition's callback
    ("", 60): 1.0,
    ("", 99): 1.0,
    ("no such transition", 0): 1.0,
}
#: The legal transitions of each state, and the state that each leads to.
_LEGAL = {
    ("unconfigured", "configure"): "inactive",
    ("inactive", "cleanup"): "unconfigured",
    ("inactive", "activate"): "active",
    ("active", "deactivate"): "inactive",
}
_NUMBERS = {1: "configure", 2: "cleanup", 3: "activate", 4: "deactivate"}
#: How much anonymous memory the node may gain after the first hundred transitions [bytes].
_GROWTH = 24 << 20


@dataclass(frozen=True)
class Footprint:
    """Resources that a process uses.

    :ivar memory: anonymous [bytes].
    """

    memory: int
    threads: int
    descriptors: int
    children: int

    @classmethod
    def of(cls, pid: int) -> Footprint:
        """The footprint of process ``pid``."""
        proc = Path(f"/proc/{pid}")
        status = dict(line.split(":", 1) for line in (proc / "status").read_text().splitlines())
        children = 0
        for task in (proc / "task").iterdir():
            children += len((task / "children").read_text().split())
        return cls(
            1024 * int(status["RssAnon"].split()[0]), int(status["Threads"]), len(os.listdir(proc / "fd")), children
        )


@fault("no leak, no wrong state, no crash")
def lifecycle_storm(rig: Rig, findings: Findings) -> None:
    """1,000 transitions in random order, with continuous targets and moves."""
    generator = random.Random(rig.options.seed)
    count = rig.options.transitions
    rig.ready()
    rig.mark()
    state, wrong, refused, done = "active", [], 0, 0
    handles: list[object] = []
    before: Footprint | None = None
    with rig.streaming():
        for number in range(count):
            rig.progress(number / count)
            (label, identifier), _ = generator.choices(list(_REQUESTS.items()), list(_REQUESTS.values()))[0]
            if generator.random() < 0.05:
                handle = rig.move(generator.choice(SWING), generator.uniform(0.2, 1.0))
                handles += [handle] if handle.accepted else []
            rig.spin_for(generator.choice((0.0, 0.0, 0.01, 0.05)))
            expected = _LEGAL.get((state, label or _NUMBERS.get(identifier, "")))
            success = rig.change(label, identifier)
            if success != (expected is not None):
                wrong.append(f"{label or identifier} in {state} {'succeeded' if success else 'failed'}")
            state = expected if success and expected else state
            found = rig.state
            if found != state:
                wrong.append(f"{found} instead of {state} after {label or identifier}")
                state = found
            done += success
            refused += not success
            if number == min(100, count // 2) and before is None:
                before = _at_rest(rig)
                state = "active"
    ends = [rig.outcome(handle).status for handle in handles]
    findings.check(not wrong, f"{done} transitions, {refused} refusals, seed {rig.options.seed}")
    for text in wrong[:3]:
        findings.check(False, text)
    findings.note(f"{len(ends)} moves came to an end")
    after = _at_rest(rig)
    assert before is not None
    for name, value in asdict(after).items():
        more = value - getattr(before, name)
        allowed = _GROWTH if name == "memory" else 2
        shown = f"{more / (1 << 20):+.1f} MB" if name == "memory" else f"{more:+d}"
        findings.check(more <= allowed, f"{name} {shown}")
    findings.check(rig.node_alive, "the node survived" if rig.node_alive else "the node died")
    check_ordinary_move(rig, findings)
    check_reflex(rig, findings)


def _at_rest(rig: Rig) -> Footprint:
    """The resources of the node once it is active and idle."""
    rig.activate()
    rig.spin_for(0.5)
    return Footprint.of(rig.node_pid)
