"""async_input on terminals, pipes, files and replacements of sys.stdin."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import pty
import random
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from aiofranka_ros.offload import console
from aiofranka_ros.offload.console import async_input

pytestmark = pytest.mark.unit

#: A wait that ends long before, unless something is broken [s].
LONG = 20.0


def run(coroutine):
    async def bounded():
        return await asyncio.wait_for(coroutine, LONG)

    return asyncio.run(bounded())


@pytest.fixture
def pipe(monkeypatch):
    """Standard input is a pipe; the fixture is a function that writes to it, or with nothing closes it."""
    reading, writing = os.pipe()
    stream = open(reading, encoding="utf-8")
    monkeypatch.setattr(sys, "stdin", stream)
    sink = open(writing, "wb", buffering=0)
    yield lambda data=None: sink.close() if data is None else sink.write(data)
    sink.close()
    stream.close()


@pytest.fixture
def terminal(monkeypatch):
    """Standard input is a terminal; the fixture is a function that types."""
    master, slave = pty.openpty()
    stream = open(slave, encoding="utf-8")
    monkeypatch.setattr(sys, "stdin", stream)
    yield lambda keys: os.write(master, keys)
    stream.close()
    os.close(master)


def noted(function, calls):
    def call(*args):
        calls.append(args)
        return function(*args)

    return call


async def asked(prompt=""):
    """A call that waits for its line."""
    task = asyncio.ensure_future(async_input(prompt))
    for _ in range(5):
        await asyncio.sleep(0)
    assert not task.done()
    return task


async def cancelled(task):
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def test_a_line_of_a_pipe_is_returned_without_its_end_and_the_prompt_is_written(pipe, capsys):
    pipe("grüße\nwith a return\r\n\n".encode())
    assert run(async_input("Ready? ")) == "grüße"
    assert capsys.readouterr().out == "Ready? "
    assert run(async_input()) == "with a return"
    assert run(async_input()) == ""
    assert capsys.readouterr().out == ""


def test_at_the_end_of_a_pipe_the_rest_is_returned_and_then_eof_raised(pipe):
    pipe(b"rest")
    pipe()
    assert run(async_input()) == "rest"
    for _ in range(2):
        with pytest.raises(EOFError):
            run(async_input())


def test_input_finds_what_async_input_left_in_the_pipe(pipe):
    pipe(b"one\ntwo\nthree\n")
    assert run(async_input()) == "one"
    assert sys.stdin.readline() == "two\n"


def test_a_line_that_arrives_in_pieces_is_joined(pipe):
    async def main():
        task = await asked()
        for piece in (b"he", b"ll", b"o\nnext"):
            pipe(piece)
            await asyncio.sleep(0.005)
        assert await task == "hello"

    run(main())


def test_a_cancelled_call_takes_no_part_of_a_line(pipe):
    async def main():
        task = await asked()
        pipe(b"half and ")
        await asyncio.sleep(0.01)
        await cancelled(task)
        await cancelled(await asked())
        pipe(b"half\n")
        assert await async_input() == "half and half"
        task = await asked()
        pipe(b"arrives with the cancellation\n")
        await cancelled(task)
        assert await async_input() == "arrives with the cancellation"

    run(main())


def test_a_timeout_is_a_cancellation_too(pipe):
    async def main():
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(async_input(), 0.01)
        pipe(b"late\n")
        assert await async_input() == "late"

    run(main())


def test_concurrent_calls_get_a_line_each_in_order_and_prompt_in_turn(pipe, capsys):
    async def main():
        tasks = [await asked(f"{i}? ") for i in range(4)]
        await cancelled(tasks.pop(1))
        assert capsys.readouterr().out == "0? "
        pipe(b"a\nb\nc\n")
        assert await asyncio.gather(*tasks) == ["a", "b", "c"]
        assert capsys.readouterr().out == "2? 3? "

    run(main())


def test_loops_in_several_threads_get_whole_lines(pipe):
    lines = []

    async def main():
        for _ in range(20):
            lines.append(await async_input())

    threads = [threading.Thread(target=run, args=(main(),)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for i in range(60):
        pipe(b"line %d\n" % i)
    for thread in threads:
        thread.join(LONG)
    assert sorted(lines) == sorted(f"line {i}" for i in range(60))


def test_loops_that_ask_at_the_same_moment_share_what_was_read(pipe, monkeypatch):
    """Two readers would each keep parts of the lines."""
    both = threading.Barrier(2)

    class Slow:
        encoding, errors = "utf-8", "strict"

        def fileno(self):
            with contextlib.suppress(threading.BrokenBarrierError):
                both.wait(0.2)  # Until the other thread is here, too, if it can be.
            return stream.fileno()

    stream, readers = sys.stdin, []
    monkeypatch.setattr(sys, "stdin", Slow())
    monkeypatch.setattr(console._WatchedLines, "__init__", noted(console._WatchedLines.__init__, readers))
    threads = [threading.Thread(target=run, args=(async_input(),)) for _ in range(2)]
    for thread in threads:
        thread.start()
    pipe(b"one\nother\n")
    for thread in threads:
        thread.join(LONG)
    assert len(readers) == 1


def test_a_flood_is_taken_in_many_turns_of_the_loop(pipe):
    async def main():
        pipe(60_000 * b"x" + b"\n")
        task = asyncio.ensure_future(async_input())
        for _ in range(20):
            await asyncio.sleep(0)
        assert not task.done()
        assert await task == 60_000 * "x"

    run(main())


def test_a_line_in_another_encoding_is_an_error_and_the_next_one_is_read(pipe):
    pipe(b"\xff\nfine\n")
    with pytest.raises(UnicodeDecodeError):
        run(async_input())
    assert run(async_input()) == "fine"


def test_the_loop_continues_and_removes_the_descriptor_afterwards(pipe):
    async def main():
        task = await asked()
        assert await asyncio.sleep(0.001, "the loop continues") == "the loop continues"
        pipe(b"x\n")
        await task
        assert not asyncio.get_running_loop().remove_reader(sys.stdin.fileno())

    run(main())


def test_a_socket_works_like_a_pipe(monkeypatch):
    ours, theirs = socket.socketpair()
    with ours, theirs, theirs.makefile("r", encoding="utf-8") as stream:
        monkeypatch.setattr(sys, "stdin", stream)
        ours.sendall(b"a\nb\n")
        assert run(async_input()) == "a"
        assert run(async_input()) == "b"


# Terminals.


def test_a_terminal_edits_the_line_before_it_is_returned(terminal):
    async def main():
        task = await asked()
        terminal(b"wrong\x15heklo\x7f\x7f\x7f")  # Ctrl-U takes all back, backspace one character
        await asyncio.sleep(0.02)
        assert not task.done()
        terminal(b"llo\r")
        assert await task == "hello"

    run(main())


def test_lines_typed_ahead_are_shared_with_input(terminal):
    terminal(b"one\ntwo\nthree\n")
    assert run(async_input()) == "one"
    assert sys.stdin.readline() == "two\n"
    assert run(async_input()) == "three"


def test_ctrl_d_ends_the_input_of_a_terminal_once(terminal):
    terminal(b"\x04")
    with pytest.raises(EOFError):
        run(async_input())
    terminal(b"on\x04")  # within a line it only submits the characters so far
    terminal(b"e\n")
    assert run(async_input()) == "one"


def test_a_cancelled_call_leaves_the_line_of_a_terminal(terminal):
    async def main():
        task = await asked()
        terminal(b"typed before the can")
        await asyncio.sleep(0.01)
        await cancelled(task)
        terminal(b"cel\n")
        assert await async_input() == "typed before the cancel"

    run(main())


def test_a_terminal_that_is_closed_is_the_end_of_input(monkeypatch):
    master, slave = pty.openpty()
    with open(slave, encoding="utf-8") as stream:
        monkeypatch.setattr(sys, "stdin", stream)

        async def main():
            task = await asked()
            os.close(master)
            with pytest.raises(EOFError):
                await task

        run(main())


# Inputs that cannot be watched.


def test_a_file_is_read_line_by_line_and_shared_with_input(monkeypatch, tmp_path):
    path = tmp_path / "answers"
    path.write_text("one\ntwo\nthree\nfour")
    with path.open() as stream:
        monkeypatch.setattr(sys, "stdin", stream)
        assert run(async_input()) == "one"
        assert stream.readline() == "two\n"
        assert run(async_input()) == "three"
        assert run(async_input()) == "four"
        with pytest.raises(EOFError):
            run(async_input())


def test_dev_null_is_the_end_of_input(monkeypatch):
    with open(os.devnull) as stream:
        monkeypatch.setattr(sys, "stdin", stream)
        with pytest.raises(EOFError):
            run(async_input())


def test_a_replaced_stdin_without_a_descriptor_works(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("one\ntwo\n"))

    async def main():
        return await asyncio.gather(async_input(), async_input())

    assert run(main()) == ["one", "two"]
    with pytest.raises(EOFError):
        run(async_input())


class SlowStdin:
    """Has no descriptor, and returns a line when the test releases it."""

    def __init__(self):
        self.release = threading.Semaphore(0)
        self.asked = 0

    def readline(self):
        self.asked += 1
        assert self.release.acquire(timeout=LONG)
        return f"line {self.asked}\n"


def test_a_cancelled_call_leaves_the_line_of_a_replaced_stdin_to_the_next(monkeypatch):
    stdin = SlowStdin()
    monkeypatch.setattr(sys, "stdin", stdin)
    threads = threading.active_count()

    async def main():
        await cancelled(await asked())
        await cancelled(await asked())
        stdin.release.release()
        assert await async_input() == "line 1"
        stdin.release.release()
        assert await async_input() == "line 2"

    run(main())
    assert stdin.asked == 2
    deadline = time.monotonic() + LONG
    while threading.active_count() > threads and time.monotonic() < deadline:
        time.sleep(0.001)
    assert threading.active_count() <= threads


def test_errors_of_stdin_are_raised(monkeypatch):
    class Refuses:
        def readline(self):
            raise OSError("captured")

    monkeypatch.setattr(sys, "stdin", Refuses())
    with pytest.raises(OSError, match="captured"):
        run(async_input())
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(RuntimeError):
        run(async_input())


# Whole processes.

SCRIPT = """
import asyncio
from aiofranka_ros.offload.console import async_input

async def main():
    try:
        print("got", await async_input("ready> "))
    finally:
        print("cleaned up", flush=True)

try:
    asyncio.run(main())
except KeyboardInterrupt:
    print("interrupted", flush=True)
except EOFError:
    print("end", flush=True)
"""


def read_until(descriptor, text):
    seen = b""
    while text not in seen:
        try:
            data = os.read(descriptor, 1024)
        except OSError:  # a terminal whose other end is closed
            data = b""
        assert data, seen
        seen += data
    return seen


@contextlib.contextmanager
def script(**options):
    process = subprocess.Popen([sys.executable, "-c", SCRIPT], **options)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def test_ctrl_c_on_a_terminal_interrupts_at_once():
    master, slave = pty.openpty()
    in_session = f"import fcntl, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0)\n{SCRIPT}"
    process = subprocess.Popen(
        [sys.executable, "-c", in_session], stdin=slave, stdout=slave, stderr=slave, start_new_session=True
    )
    try:
        read_until(master, b"ready> ")
        os.write(master, b"half a li\x03")
        assert b"cleaned up" in read_until(master, b"interrupted")
        assert process.wait(LONG) == 0
    finally:
        process.kill()
        process.wait()
        os.close(slave)
        os.close(master)


def test_sigint_interrupts_the_wait_for_a_pipe():
    with script(stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process, process.stdin, process.stdout:
        read_until(process.stdout.fileno(), b"ready> ")
        process.send_signal(signal.SIGINT)
        assert process.stdout.read() == b"cleaned up\ninterrupted\n"
        assert process.wait(LONG) == 0


@pytest.mark.parametrize(("stdin", "expected"), [(b"yes\n", b"got yes\n"), (b"", b"")])
def test_a_script_reads_its_answers_from_a_pipe_or_a_file(stdin, expected, tmp_path):
    path = tmp_path / "answers"
    path.write_bytes(stdin)
    ending = b"" if stdin else b"end\n"
    with path.open("rb") as file:
        for source in ({"input": stdin}, {"stdin": file}):
            done = subprocess.run([sys.executable, "-c", SCRIPT], **source, capture_output=True, timeout=LONG)
            assert done.stdout == b"ready> " + expected + b"cleaned up\n" + ending
            assert done.stderr == b""


def test_hundreds_of_cancellations_at_random_moments_lose_no_line(pipe):
    chance = random.Random(7)

    async def main():
        got, written = [], 0
        for _ in range(400):
            task = asyncio.ensure_future(async_input())
            data = b""
            if chance.random() < 0.5:
                data = b"line %d\n" % written
                written += 1
            half = chance.randrange(len(data) + 1)
            for piece in (data[:half], data[half:]):
                pipe(piece)
                for _ in range(chance.randrange(4)):
                    await asyncio.sleep(0)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                got.append(await task)
        cancelled_calls = 400 - len(got)
        pipe()
        with contextlib.suppress(EOFError):
            while True:
                got.append(await async_input())
        assert got == [f"line {i}" for i in range(written)]
        assert cancelled_calls > 100

    run(main())
