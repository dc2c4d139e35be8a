"""The connection to a gripper, tested on the simulated hand and against libfranka's own client; no ROS."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from aiofranka_ros.arm.gripper.connection import PORT, Hand, Request, SentCommand, Status
from aiofranka_ros.errors import ConnectionFailed, IncompatibleRobot
from aiofranka_ros.simulation.hand import HandServer, SimulatedHand
from aiofranka_ros.testing import PATIENCE

pytestmark = pytest.mark.light

HOST = "127.0.0.69"
OBJECT = 0.03

#: Every request of the protocol, with a different number in each field.
REQUESTS = """
gripper.homing()
gripper.move(0.01, 0.02)
gripper.grasp(0.03, 0.04, 50.0, 0.006, 0.007)
gripper.stop()
"""


@contextlib.contextmanager
def served(
    object_width: float | None = None, host: str = HOST, kind: type[HandServer] = HandServer
) -> Iterator[HandServer]:
    """A simulated hand on the network, without an arm."""
    server = kind(host, SimulatedHand(object_width))
    thread = threading.Thread(target=server.run_server)
    thread.start()
    try:
        deadline = time.monotonic() + PATIENCE
        while not server.running:
            assert thread.is_alive() and time.monotonic() < deadline
            time.sleep(0.001)
        yield server
    finally:
        if server.server_socket is not None:
            with contextlib.suppress(OSError):
                server.server_socket.shutdown(socket.SHUT_RDWR)  # Wakes its thread.
        server.stop()
        thread.join()


def poll_until(hand: Hand, condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        hand.poll()
        time.sleep(0.002)


@contextlib.contextmanager
def connected(host: str = HOST) -> Iterator[Hand]:
    hand = Hand(host)
    try:
        poll_until(hand, lambda: hand.state is not None)
        yield hand
    finally:
        hand.close()


def width_of(hand: Hand) -> float:
    assert hand.state is not None
    return hand.state.width


def outcome(hand: Hand, command: SentCommand) -> Status:
    """The status of a command, once a newer state has arrived."""
    poll_until(hand, lambda: command.status is not None)
    count = hand.states
    poll_until(hand, lambda: hand.states > count + 1)
    assert command.status is not None
    return command.status


class Recorder:
    """A server that accepts every request and records it."""

    def __init__(self, host: str) -> None:
        self.requests: list[bytes] = []
        self._listener = socket.create_server((host, PORT))
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        connection, (address, _) = self._listener.accept()
        with connection, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
            udp.bind((self._listener.getsockname()[0], 0))
            stream = connection.makefile("rb")
            while header := stream.read(10):
                command, number, size = struct.unpack("<HII", header)
                request = header + stream.read(size - 10)
                self.requests.append(request)
                if command == 0:
                    (port,) = struct.unpack_from("<H", request, 12)
                    connection.sendall(struct.pack("<HIIHH", 0, number, 14, 0, 3))
                    udp.sendto(struct.pack("<Idd?H", 1, 0.02, 0.08, True, 31), (address, port))
                else:
                    connection.sendall(struct.pack("<HIIH", command, number, 12, 0))

    def close(self) -> list[bytes]:
        """The requests, without the UDP port, which the system chooses."""
        self._thread.join(PATIENCE)
        self._listener.close()
        return [self.requests[0][:12], *self.requests[1:]]


def run_libfranka(host: str, code: str) -> str:
    """Run code with libfranka's client, in a separate process because it keeps the GIL."""
    script = f"import pylibfranka\ngripper = pylibfranka.Gripper({host!r})\n{code}"
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=PATIENCE)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_every_request_is_byte_for_byte_libfrankas() -> None:
    theirs = Recorder(HOST)
    run_libfranka(HOST, REQUESTS)
    expected = theirs.close()
    assert len(expected) == 5
    ours = Recorder(HOST)
    with connected() as hand:
        assert hand.state is not None
        assert (hand.state.width, hand.state.is_grasped, hand.state.temperature) == (0.02, True, 31)
        for command in (
            hand.send(Request.HOMING),
            hand.send(Request.MOVE, 0.01, 0.02),
            hand.send(Request.GRASP, 0.03, 0.006, 0.007, 0.04, 50.0),
            hand.send(Request.STOP),
        ):
            poll_until(hand, lambda command=command: command.status is Status.SUCCESS)  # type: ignore[misc]
    assert ours.close() == expected


def test_libfranka_drives_the_simulated_hand() -> None:
    code = """
print(gripper.move(0.05, 0.1), round(gripper.read_once().width, 4))
print(gripper.grasp(0.03, 0.1, 20.0), gripper.read_once().is_grasped, round(gripper.read_once().width, 4))
print(gripper.stop(), gripper.read_once().is_grasped, gripper.grasp(0.06, 0.1, 20.0))
try:
    gripper.move(0.2, 0.1)
except pylibfranka.CommandException:
    print("refused")
"""
    with served(OBJECT):
        said = run_libfranka(HOST, code)
    assert said.splitlines() == ["True 0.05", "True True 0.03", "True False False", "refused"]


def test_a_stop_during_a_command_stops_the_fingers() -> None:
    with served(), connected() as hand:
        move = hand.send(Request.MOVE, 0.0, 0.05)
        poll_until(hand, lambda: width_of(hand) < 0.07)
        stop = hand.send(Request.STOP)
        assert outcome(hand, stop) is Status.SUCCESS
        assert move.status is Status.ABORTED
        assert not hand.busy
        assert 0.0 < width_of(hand) < 0.07
        resting = width_of(hand)
        poll_until(hand, lambda count=hand.states: hand.states > count + 2)  # type: ignore[misc]
        assert width_of(hand) == resting


def test_a_new_command_aborts_the_one_before() -> None:
    with served(), connected() as hand:
        first, second = hand.send(Request.MOVE, 0.0, 0.05), hand.send(Request.MOVE, 0.075, 0.1)
        assert outcome(hand, second) is Status.SUCCESS
        assert first.status is Status.ABORTED
        assert width_of(hand) == pytest.approx(0.075)


def test_the_hand_holds_an_object_until_it_is_stopped_or_moved() -> None:
    with served(OBJECT), connected() as hand:
        assert outcome(hand, hand.send(Request.GRASP, OBJECT, 0.005, 0.005, 0.1, 20.0)) is Status.SUCCESS
        assert hand.state is not None and hand.state.is_grasped and width_of(hand) == pytest.approx(OBJECT)
        assert outcome(hand, hand.send(Request.MOVE, 0.08, 0.1)) is Status.SUCCESS
        assert hand.state is not None and not hand.state.is_grasped
        # Homing closes completely, which the object prevents.
        assert outcome(hand, hand.send(Request.HOMING)) is Status.UNSUCCESSFUL


def test_a_grasp_of_nothing_closes_the_fingers_and_fails() -> None:
    with served(), connected() as hand:
        assert outcome(hand, hand.send(Request.GRASP, OBJECT, 0.005, 0.005, 0.1, 20.0)) is Status.UNSUCCESSFUL
        assert width_of(hand) == 0.0
        assert outcome(hand, hand.send(Request.HOMING)) is Status.SUCCESS
        assert width_of(hand) == pytest.approx(0.08)


def test_a_move_against_an_object_continues_until_it_is_stopped() -> None:
    with served(OBJECT), connected() as hand:
        move = hand.send(Request.MOVE, 0.01, 0.1)
        poll_until(hand, lambda: width_of(hand) == pytest.approx(OBJECT))
        poll_until(hand, lambda count=hand.states: hand.states > count + 10)  # type: ignore[misc]
        assert move.status is None and hand.busy
        hand.send(Request.STOP)
        assert outcome(hand, move) is Status.ABORTED


def test_an_impossible_command_fails_and_the_running_one_continues() -> None:
    with served(), connected() as hand:
        slow = hand.send(Request.MOVE, 0.07, 0.02)
        assert outcome(hand, hand.send(Request.MOVE, 0.2, 0.1)) is Status.FAILED
        assert outcome(hand, slow) is Status.SUCCESS


# --- What goes wrong


def fails(hand: Hand, text: str) -> None:
    """The connection fails within a few seconds, and says why."""
    with pytest.raises(ConnectionFailed, match=text):
        poll_until(hand, lambda: False)
    hand.close()


def test_the_message_says_what_to_check_if_there_is_no_gripper() -> None:
    with pytest.raises(ConnectionFailed, match="port 1338 is closed: is a gripper mounted"):
        hand = Hand(HOST)  # Refused at once on the same machine, a little later over a network.
        try:
            poll_until(hand, lambda: False)
        finally:
            hand.close()


def test_an_impossible_host_name_is_reported() -> None:
    with pytest.raises(ConnectionFailed, match="no gripper at 'no such robot'"):
        Hand("no such robot")


def test_a_gripper_that_another_program_uses_is_reported() -> None:
    with socket.create_server((HOST, PORT)):
        fails(Hand(HOST), "is another program connected to it?")


@contextlib.contextmanager
def answering(*parts: bytes) -> Iterator[None]:
    """A server that answers each request with one of ``parts``, and then closes the connection."""
    with socket.create_server((HOST, PORT)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                for part in parts:
                    connection.recv(256)
                    connection.sendall(part)
                connection.recv(256)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield
        thread.join(PATIENCE)


def test_another_version_of_the_protocol_is_reported_with_both_numbers() -> None:
    with answering(struct.pack("<HIIHH", 0, 0, 14, 1, 4)):
        hand = Hand(HOST)
        with pytest.raises(IncompatibleRobot) as raised:
            poll_until(hand, lambda: False)
        hand.close()
    assert (raised.value.robot_version, raised.value.library_version) == (4, 3)


def test_another_server_at_the_port_is_not_mistaken_for_a_gripper() -> None:
    with answering(b"SSH-2.0-OpenSSH_9.6\r\n"):
        fails(Hand(HOST), "is not a gripper")


def test_a_gripper_that_sends_no_state_is_reported() -> None:
    with answering(struct.pack("<HIIHH", 0, 0, 14, 0, 3)):
        fails(Hand(HOST), "sends no state: does a firewall")


def test_a_connection_that_closes_during_a_command_is_noticed_at_once() -> None:
    with served() as server, connected() as hand:
        command = hand.send(Request.MOVE, 0.0, 0.05)
        server.stop()
        with pytest.raises(ConnectionFailed, match=f"lost the gripper at {HOST}"):
            poll_until(hand, lambda: False)
        assert command.status is None


def test_a_silent_gripper_counts_as_lost() -> None:
    with served() as server, connected() as hand:
        server.client_address = None  # No more states, but the connection stays.
        with pytest.raises(ConnectionFailed, match="silent for 1 s"):
            poll_until(hand, lambda: False)


def test_states_of_another_sender_are_ignored() -> None:
    forged = struct.pack("<Idd?H", 9, 0.01, 0.02, True, 99)
    with served() as server, connected() as hand:
        # Another address, and another program at the same one.
        for address in ("127.0.0.63", HOST):
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
                other.bind((address, 0))
                for _ in range(20):
                    other.sendto(forged, (server.client_address, server.client_udp_port))
                    poll_until(hand, lambda count=hand.states: hand.states > count)  # type: ignore[misc]
                    assert hand.state is not None and hand.state.max_width == pytest.approx(0.08)


@contextlib.contextmanager
def greeted() -> Iterator[tuple[Hand, tuple[str, int]]]:
    """A hand that was accepted and has no state yet, and where states go."""
    with socket.create_server((HOST, PORT)) as listener:
        hand = Hand(HOST)
        try:
            poll_until(hand, lambda: hand.busy)
            connection, (address, _) = listener.accept()
            with connection:
                (port,) = struct.unpack_from("<H", connection.recv(256), 12)
                connection.sendall(struct.pack("<HIIHH", 0, 0, 14, 0, 3))
                poll_until(hand, lambda: not hand.busy)
                yield hand, (address, port)
        finally:
            hand.close()


def send_state(sender: str, receiver: tuple[str, int], width: float) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.bind((sender, 0))
        udp.sendto(struct.pack("<Idd?H", 1, width, 0.08, False, 31), receiver)


def test_a_forged_first_state_is_ignored() -> None:
    with greeted() as (hand, receiver):
        send_state("127.0.0.63", receiver, 0.01)
        send_state(HOST, receiver, 0.02)
        poll_until(hand, lambda: hand.state is not None)
        assert (width_of(hand), hand.states) == (0.02, 1)


def test_states_that_only_another_address_sends_are_reported() -> None:
    with greeted() as (hand, receiver):
        send_state("127.0.0.63", receiver, 0.01)
        fails(hand, "sends no state, but 127.0.0.63 sends something instead")


def test_descriptors_above_1023_can_be_waited_for() -> None:
    """``select`` cannot; a policy with many cameras, files and sockets has that many."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 2048), hard))
    taken = []
    try:
        with open(os.devnull, "rb") as null:
            while not taken or taken[-1] < 1100:
                taken.append(os.dup(null.fileno()))
        with served() as server, connected() as hand:
            assert server.udp_socket is not None and server.udp_socket.fileno() > 1023
            assert outcome(hand, hand.send(Request.MOVE, 0.06, 0.1)) is Status.SUCCESS
    finally:
        for descriptor in taken:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
