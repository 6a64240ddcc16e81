"""
What ``-l debug`` shows: commands, waits and exchanges; and that it costs nothing where it is off.
"""

from __future__ import annotations

import logging
import signal
import subprocess
from pathlib import Path

import _qemulab_host_log as log
import _qemulab_host_process as process
import _qemulab_host_seam as host
import pytest
from _qemulab_vm_qmp import Qmp
from _qemulab_vm_qmp import QmpError


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """Turn it on."""
    caplog.set_level(logging.DEBUG, logger="qemulab")
    return caplog


def test_every_command_is_logged_with_its_end(lines: pytest.LogCaptureFixture) -> None:
    """As a person would type it; what failed with its last words, what is missing as an error."""
    host.run(["sh", "-c", "echo 'a secret'; cat >/dev/null"], stdin="another secret")
    host.run(["sh", "-c", "echo no such thing >&2; exit 3"], check=False)
    with pytest.raises(host.HostError):
        host.run(["sleep", "9"], timeout=0.05)
    host.launch(["true", "a b"])
    first, second, third, fourth = lines.messages
    assert first.startswith("qemulab: command sh -c 'echo") and "exit status 0" in first
    assert "echo 'a secret'" not in first.partition(": exit")[2] and "another" not in first
    assert "exit status 3 no such thing" in second
    assert third.startswith("qemulab: command sleep 9: TimeoutExpired")
    assert fourth == "qemulab: command true 'a b': not waited for"


def test_every_wait_is_logged_when_it_begins_and_how_it_ended(
    lines: pytest.LogCaptureFixture,
) -> None:
    """By whose question it is; what is so at once is no wait."""
    answers = iter([False, False, True])

    def ready() -> bool:
        return next(answers)

    assert host.wait_for(lambda: True, 1)
    assert lines.messages == []
    assert host.wait_for(ready, 5)
    begins, ends = lines.messages
    assert begins.startswith("qemulab: wait test_every_wait")
    assert begins.endswith("ready, 5 s at most …")
    assert "ready, 5 s at most: it is so (" in ends
    assert not host.wait_for(lambda: False, 0.01)
    assert "in vain" in lines.messages[-1]


def test_signals_are_logged(lines: pytest.LogCaptureFixture) -> None:
    """With whom they went to."""
    with subprocess.Popen(["sleep", "77.7"]) as child:
        # Its command line shows some moments after it was started.
        assert host.wait_for(lambda: process.send(child.pid, signal.SIGTERM, "77.7"), 10)
    assert f"qemulab: signal SIGTERM to process {child.pid} (77.7)" in lines.messages


def test_an_exchange_that_fails_is_logged_too(
    lines: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """With the socket's path."""
    with pytest.raises(QmpError):
        Qmp(tmp_path / "nothing")
    said = f"qemulab: qmp {tmp_path}/nothing connect: FileNotFoundError"
    assert lines.messages[0].startswith(said)


def test_an_answer_is_one_line_of_bearable_length() -> None:
    """Whatever it is."""
    assert log.short({"a": "b\nc"}) == "{'a': 'b\\nc'}"
    assert log.short("a\n  b") == "a b"
    assert log.short("x" * 1000) == "x" * 400 + "… (1000 characters)"


def test_nothing_is_worked_out_where_the_log_is_off(caplog: pytest.LogCaptureFixture) -> None:
    """Neither the words of a step nor its answer's."""
    caplog.set_level(logging.INFO, logger="qemulab")

    class Untouched:
        def __str__(self) -> str:
            raise AssertionError

    def words() -> str:
        raise AssertionError

    with log.step("command", words, announced=True) as ended:
        ended(Untouched())
    log.say("%s", Untouched())
    assert caplog.messages == []
