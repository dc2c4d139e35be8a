"""The node's flight recorder: it notes what the node does and says, and records when the arm stops by itself.

Used by the node, in its process and its one thread. What it notes comes from where it happens anyway, so nothing is
asked or computed for it; :mod:`aiofranka_ros.recording` has the rest. Its service is ``~/save_recording``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.impl.rcutils_logger import RcutilsLogger
from std_srvs.srv import Trigger as TriggerService

from aiofranka_ros.arm.driver import Driver
from aiofranka_ros.arm.settings import SETTING_NAMES, ArmSettings
from aiofranka_ros.control.law.motion import Motion
from aiofranka_ros.errors import FrankaError, NameTaken
from aiofranka_ros.node.targets import TargetTopics
from aiofranka_ros.recording.notes import Notes
from aiofranka_ros.recording.recorder import OFF, Recorder, Trigger
from aiofranka_ros.ros.messages import PoseTarget, TwistTarget
from aiofranka_ros.ros.ownership import Ownership
from aiofranka_ros.ros.refusals import Refusal

if TYPE_CHECKING:
    from aiofranka_ros.node.lifecycle import FrankaNode


class NotedLogger(RcutilsLogger):
    """A logger of ROS whose lines are noted for a recording, too."""

    def __init__(self, name: str, notes: Notes) -> None:
        super().__init__(name)
        self._notes = notes

    # A line of source code for each level, because rclpy allows only one level per line.

    def info(self, message: Any, **options: Any) -> bool:
        """See rclpy."""
        self._notes.line("info", str(message))
        return super().info(message, **options)

    def warning(self, message: Any, **options: Any) -> bool:
        """See rclpy."""
        self._notes.line("warning", str(message))
        return super().warning(message, **options)

    def error(self, message: Any, **options: Any) -> bool:
        """See rclpy."""
        self._notes.line("error", str(message))
        return super().error(message, **options)

    def fatal(self, message: Any, **options: Any) -> bool:
        """See rclpy."""
        self._notes.line("fatal", str(message))
        return super().fatal(message, **options)


class FlightRecorder:
    """The notes and the recorder of one node.

    :param notes: the node's, which its logger has, too.
    """

    def __init__(
        self, node: FrankaNode, notes: Notes, driver: Driver, settings: ArmSettings, targets: TargetTopics
    ) -> None:
        self._node, self._notes, self._driver, self._settings = node, notes, driver, settings
        self._owners = targets.owners
        targets.on_target, targets.on_chunk = self._on_target, self._on_chunk
        self._log = node.get_logger()
        self._senders: dict[bytes, str] = {}
        self._statuses: dict[str, str] = {}
        name = node.get_fully_qualified_name()
        self._recorder = Recorder(name, notes, self._values, self._details, self._say)
        node.create_service(TriggerService, "~/save_recording", self._on_request)

    def tick(self) -> None:
        """Note that the node runs, and what it sees; called at every tick."""
        client = self._driver.client
        if client is not None:
            self._recorder.tick(client.state(), client)
        else:
            self._recorder.report()

    def stopped(self, error: FrankaError) -> None:
        """Record that the arm was stopped or lost; called before its control process is closed."""
        if not isinstance(error, NameTaken):  # Then nothing went wrong: the node left the arm to another one.
            self._recorder.save(Trigger.of(error), self._driver.client)

    def close(self) -> None:
        """Let recordings that have begun finish by themselves."""
        self._recorder.close()
        self._notes.close()

    def on_motion(self, motion: Motion, owner: str) -> None:
        """Note a motion that begins, and which interface asked for it."""
        goal = motion.goal.tolist()
        self._notes.event("request", owner, goal=[round(q, 4) for q in goal], duration=round(motion.duration, 3))

    def on_refusal(self, refusal: Refusal) -> None:
        """Note a refusal."""
        self._notes.event(
            "refusal", f"{refusal.what}: {refusal.message}", reason=refusal.reason, sender=refusal.publisher
        )

    def on_owner(self, owner: Ownership) -> None:
        """Note who controls the arm."""
        self._notes.event("owner", owner.owner, client=owner.client)
        if owner.client:
            self._senders[self._owners.publisher] = owner.client

    def on_status(self, name: str, status: DiagnosticStatus) -> None:
        """Note a status of the diagnostics if it says something else than before."""
        if self._statuses.get(name) != status.message:
            self._statuses[name] = status.message
            self._notes.event("diagnostics", f"{name}: {status.message}", level=status.level[0])

    def _on_target(self, topic: str, target: Any, made: int, publisher: bytes) -> None:
        sender = self._senders.get(publisher)
        if sender is None:  # Once, also if it is not known yet: asking the graph takes long.
            sender = self._senders[publisher] = self._owners.name_of(publisher, topic)
        if isinstance(target, PoseTarget):
            target = *target.position, *target.orientation
        elif isinstance(target, TwistTarget):
            target = target.twist
        self._notes.target(topic, target, made, sender)

    def _on_chunk(self, topic: str) -> None:
        self._notes.event("request", f"a chunk on ~/{topic}", sender=self._owners.client)

    async def _on_request(self, request: TriggerService.Request, response: TriggerService.Response) -> Any:
        """Answer ``~/save_recording`` when the file is written."""
        result = self._recorder.save(Trigger("asked", "a client asked for it"), self._driver.client)
        if result is None:
            response.message = OFF
            return response
        while not result.done():
            await self._node.next_tick()
        error = result.exception()
        response.success = error is None
        response.message = str(result.result() if error is None else error)
        return response

    def _values(self) -> dict[str, Any]:
        return {name: self._settings[name] for name in SETTING_NAMES}

    def _details(self) -> dict[str, Any]:
        return {"node": True, **self._driver.details}

    def _say(self, level: str, message: str) -> None:
        if level == "warning":
            self._log.warning(message)
        else:
            self._log.info(message)
