"""Processes, on the real host: there or not, and a signal to the right one only."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import _qemulab_host_process as processes
import _qemulab_host_seam as host
import pytest
from commands import SLEEP
from commands import running


def test_a_process_exists_until_it_ends_and_a_zombie_does_not() -> None:
    """A zombie has a PID, but runs no more."""
    with running(SLEEP) as process:
        assert processes.exists(process.pid)
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it has ended, unreaped
        assert os.path.exists(f"/proc/{process.pid}/stat")
        assert not processes.exists(process.pid)
    assert not processes.exists(process.pid)
    assert not processes.exists(0)
    assert not processes.exists(-1)
    assert processes.exists(os.getpid())


def test_a_process_with_brackets_in_its_name_exists(tmp_path: Path) -> None:
    """Its name stands in brackets before its state."""
    program = tmp_path / ") Z ("
    sleep = host.find_binary("sleep")
    assert sleep is not None
    shutil.copy(sleep, program)
    with subprocess.Popen([str(program), "60"]) as process:
        try:
            assert processes.exists(process.pid)
        finally:
            process.kill()


def test_cpu_time_grows_while_a_process_or_its_child_gets_anywhere() -> None:
    """One that stands still has none; a shell that waits has its child's."""
    loop = ["sh", "-c", "while :; do :; done"]
    for command in (loop, ["sh", "-c", f"{loop[2]} & wait"]):
        with subprocess.Popen(command, start_new_session=True) as process:
            try:
                assert host.wait_for(lambda pid=process.pid: processes.cpu_ticks(pid) > 1, 10)
                os.killpg(process.pid, signal.SIGSTOP)
                time.sleep(0.1)
                before = processes.cpu_ticks(process.pid)
                time.sleep(0.2)
                assert processes.cpu_ticks(process.pid) == before
            finally:
                os.killpg(process.pid, signal.SIGKILL)
    assert processes.cpu_ticks(process.pid) == 0
    assert processes.cpu_ticks(0) == 0


def test_a_signal_reaches_the_process_that_is_meant() -> None:
    """Known by a word of its command line."""
    with running([*SLEEP, "--conf-file=/a"]) as process:
        assert processes.send(process.pid, signal.SIGTERM, "--conf-file=/a")
        assert process.wait(10) == -signal.SIGTERM


@pytest.mark.parametrize("word", ["--conf-file=/b", "--conf-file=/", "/a", ""])
def test_a_process_that_is_not_meant_gets_no_signal(word: str) -> None:
    """It has the number, but not the whole word."""
    with running([*SLEEP, "--conf-file=/a"]) as process:
        assert not processes.send(process.pid, signal.SIGKILL, word)
        assert process.poll() is None


@pytest.mark.parametrize("pid", [0, -1, 2**22 + 1])
def test_no_process_gets_no_signal(pid: int) -> None:
    """And nobody in its place: 0 and -1 are many to kill(2)."""
    assert not processes.send(pid, signal.SIGKILL, "x")


@pytest.mark.parametrize("word", ["--conf-file=/find-me", "--conf-file=/find"])
def test_a_process_is_found_by_a_word_of_its_own(word: str) -> None:
    """A whole word, of a process of that user; PID files are not asked."""
    command = [*SLEEP, "--conf-file=/find-me"]
    user = pwd.getpwuid(os.geteuid()).pw_name
    with running(command) as process:
        found = [process.pid] if word == command[-1] else []
        assert processes.find(word, user) == found
        assert processes.find(word, "daemon") == []
    assert processes.find(word, user) == []
    assert processes.find(word, "no-such-user") == []


def test_a_process_that_is_watched_ends_once() -> None:
    """Also as a zombie; one that is not there has ended."""
    with running(SLEEP) as process:
        with processes.watched(process.pid) as ended:
            assert not ended()
            process.kill()
            assert host.wait_for(ended, 5)
    with processes.watched(process.pid) as ended:
        assert ended()
    with processes.watched(-1) as ended:
        assert ended()


DEAF = "import signal, time; signal.signal(15, signal.SIG_IGN); print(flush=True); time.sleep(60)"


def test_a_process_is_ended_softly_then_hard() -> None:
    """One that ignores SIGTERM as well; another one is left alone."""
    with running([sys.executable, "-I", "-S", "-c", DEAF, "--deaf"]) as process:
        processes.end(process.pid, "--other", 0.1)
        assert process.poll() is None
        processes.end(process.pid, "--deaf", 0.1)
        assert process.wait(5) == -signal.SIGKILL
