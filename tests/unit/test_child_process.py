"""Programs that are started: what they say, how they end, and what they inherit."""

from __future__ import annotations

import os
import signal

import gevent
import pytest

from vectorizer.child_process import ChildProcess

DEADLINE_SECS = 10.0


@pytest.fixture(autouse=True)
def deadline() -> object:
    with gevent.Timeout(DEADLINE_SECS, AssertionError("a child does not end")):
        yield


def test_what_it_says_and_how_it_ends() -> None:
    child = ChildProcess(
        ["sh", "-c", "echo $WORD >&2; echo unheard; exit 7"], {**os.environ, "WORD": "heard"}
    )
    assert child.errors.read() == b"heard\n"
    assert child.wait() == child.wait() == 7
    assert not child.running
    child.kill()  # nobody else is hit
    child.errors.close()


def test_it_is_ended() -> None:
    child = ChildProcess(["sleep", "1000"], os.environ)
    assert child.running
    assert os.getsid(child.pid) == child.pid
    child.kill()
    assert child.wait() == -signal.SIGKILL
    assert child.errors.read() == b""


def test_it_inherits_neither_files_nor_ignored_signals() -> None:
    reading, writing = os.pipe()
    ours = os.readlink(f"/proc/self/fd/{reading}")
    script = "ls -l /proc/self/fd >&2; grep SigIgn /proc/self/status >&2"
    child = ChildProcess(["sh", "-c", script], os.environ)
    *files, ignored = child.errors.read().decode().splitlines()
    assert len(files) > 3
    assert not [line for line in files if line.endswith(ours)]
    assert int(ignored.split()[1], 16) & (1 << signal.SIGPIPE - 1) == 0
    assert child.wait() == 0
    os.close(reading)
    os.close(writing)


def test_what_cannot_be_started_leaves_nothing_open() -> None:
    gevent.sleep(0)  # the event loop opens files of its own at first
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        with pytest.raises(FileNotFoundError):
            ChildProcess(["/nowhere/program"], os.environ)
    while len(os.listdir("/proc/self/fd")) > before:
        gevent.sleep(0.01)  # gevent closes in its own time


def test_others_run_while_it_is_waited_for() -> None:
    child = ChildProcess(["sh", "-c", "exec sleep 1000"], os.environ)
    waiting = gevent.spawn(child.wait)
    gevent.sleep(0)
    assert not waiting.ready()
    child.kill()
    assert waiting.get() == -signal.SIGKILL
