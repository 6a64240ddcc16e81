"""Processes, on the real host: there or not, and a signal to the right one only."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import _qemulab_host as host
import _qemulab_process as processes
import pytest

SLEEP = [sys.executable, "-I", "-S", "-c", "import time; print(flush=True); time.sleep(60)"]


def test_a_process_exists_until_it_ends_and_a_zombie_does_not() -> None:
    """A zombie has a PID, but runs no more."""
    with subprocess.Popen(SLEEP, stdout=subprocess.PIPE) as process:
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


def test_a_signal_reaches_the_process_that_is_meant() -> None:
    """Known by a word of its command line."""
    with subprocess.Popen([*SLEEP, "--conf-file=/a"], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert processes.send(process.pid, signal.SIGTERM, "--conf-file=/a")
        assert process.wait(10) == -signal.SIGTERM


@pytest.mark.parametrize("word", ["--conf-file=/b", "--conf-file=/", "/a", ""])
def test_a_process_that_is_not_meant_gets_no_signal(word: str) -> None:
    """It has the number, but not the whole word."""
    with subprocess.Popen([*SLEEP, "--conf-file=/a"], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            assert not processes.send(process.pid, signal.SIGKILL, word)
            assert process.poll() is None
        finally:
            process.kill()


@pytest.mark.parametrize("pid", [0, -1, 2**22 + 1])
def test_no_process_gets_no_signal(pid: int) -> None:
    """And nobody in its place: 0 and -1 are many to kill(2)."""
    assert not processes.send(pid, signal.SIGKILL, "x")
