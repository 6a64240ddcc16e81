"""Console logs: the script that cuts them, run on real files under a writer that goes on."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import _qemulab_run_by_supervisord_programs as programs
import _qemulab_run_by_systemd_units as systemd_units
import _qemulab_run_log_cutter as consoles
import _qemulab_run_units as units
import pytest
from _qemulab_host_paths import Layout

pytestmark = pytest.mark.needs("fallocate", "stat", "head")

LINE = 64


def lines(first: int, count: int) -> bytes:
    """Return numbered lines of the same length."""
    return b"".join(b"%0*d\n" % (LINE - 1, number) for number in range(first, first + count))


def script(tmp_path: Path) -> tuple[Path, Path]:
    """Write the script for a directory with an odd name; return both."""
    logs = tmp_path / "a 'lab', its logs"
    logs.mkdir()
    path = tmp_path / "cut-consoles"
    path.write_text(consoles.cut_script(logs))
    return path, logs


def used(path: Path) -> int:
    """Return how much of the disk a file takes."""
    return path.stat().st_blocks * 512


def test_a_log_that_is_too_large_keeps_its_end_under_its_writer(tmp_path: Path) -> None:
    """Who appends goes on where he was, again and again; a small log keeps every byte."""
    path, logs = script(tmp_path)
    small = logs / "b.log"
    small.write_bytes(lines(0, 1000))
    each = (consoles.LIMIT + consoles.KEPT) // LINE
    with open(logs / "a.log", "ab", buffering=0) as writer:
        for turn in range(3):
            written = lines(turn * each, each)
            writer.write(written)
            os.fsync(writer.fileno())
            subprocess.run(["sh", path], check=True)
            assert used(logs / "a.log") <= 2 * consoles.KEPT + 4096
            kept = (logs / "a.log").read_bytes()[-consoles.KEPT :]
            assert kept == written[-consoles.KEPT :]
        writer.write(b"the last line\n")
    assert (logs / "a.log").read_bytes().endswith(written[-LINE:] + b"the last line\n")
    assert small.read_bytes() == lines(0, 1000)


def test_where_a_file_cannot_be_cut_the_log_goes_whole(tmp_path: Path) -> None:
    """The host's disk comes before a log; its writer goes on."""
    path, logs = script(tmp_path)
    refuses = tmp_path / "bin" / "fallocate"
    refuses.parent.mkdir()
    refuses.write_text("#!/bin/sh\nexit 1\n")
    refuses.chmod(0o755)
    environment = {"PATH": f"{refuses.parent}:{os.environ['PATH']}"}
    with open(logs / "a.log", "ab", buffering=0) as writer:
        writer.write(lines(0, (consoles.LIMIT + consoles.KEPT) // LINE))
        os.fsync(writer.fileno())
        subprocess.run(["sh", path], check=True, env=environment)
        writer.write(b"after\n")
    assert (logs / "a.log").read_bytes() == b"after\n"


def test_the_listener_answers_each_tick_of_a_supervisord(tmp_path: Path) -> None:
    """It reads an event whole, cuts, says that it is done, and ends with its supervisord."""
    path, logs = script(tmp_path)
    (logs / "a.log").write_bytes(lines(0, (consoles.LIMIT + consoles.KEPT) // LINE))
    header = "ver:3.0 server:supervisor serial:{} pool:consoles poolserial:{} eventname:TICK_5"
    event = f"{header} len:15\nwhen:1201063880"
    done = subprocess.run(
        ["sh", path, "listen"],
        input="".join(event.format(number, number) for number in range(2)),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "READY\n" + 2 * "RESULT 2\nOKREADY\n" and done.stderr == ""
    assert used(logs / "a.log") <= 2 * consoles.KEPT + 4096


def test_no_log_at_all_is_no_failure(tmp_path: Path) -> None:
    """Neither in an empty directory nor without one."""
    path, logs = script(tmp_path)
    subprocess.run(["sh", path], check=True)
    logs.rmdir()
    subprocess.run(["sh", path], check=True)


def test_what_has_the_script_run() -> None:
    """A timer as long as a machine wants it; a listener; both as our user, without a capability."""
    layout = Layout("lab", Path("/srv/100%"))
    service = consoles.service(layout, "qemulab")
    assert 'ExecStart=-/bin/sh "/srv/100%%/var/lib/qemulab/lab/cut-consoles"' in service
    assert "User=qemulab" in service and "CapabilityBoundingSet=\n" in service
    assert "ProtectSystem=strict" in service and "PrivateTmp" not in service
    assert "StopWhenUnneeded=yes" in consoles.timer()
    assert f"OnUnitInactiveSec={consoles.INTERVAL}" in consoles.timer()
    listener = consoles.supervisord_listener(layout, "qemulab")
    assert "/bin/sh /srv/100%%/var/lib/qemulab/lab/cut-consoles listen" in listener
    assert "--reuid=qemulab" in listener and f"events=TICK_{consoles.INTERVAL}\n" in listener


def test_other_logs_of_a_lab_are_rotated_by_who_writes_them() -> None:
    """Under supervisord each process's and its own; under systemd it is the journal's matter."""
    unit = units.Unit("hub", "lab", "n", Path("/l"), "qemulab")
    section = programs.supervisord_program(unit, Path("/w"), Path("/log"))
    whole = programs.supervisord_configuration(Path("/s"), Path("/p"), Path("/log"), "units")
    assert "stdout_logfile_maxbytes=1MB\nstdout_logfile_backups=1" in section
    assert "logfile_maxbytes=1MB\nlogfile_backups=1" in whole
    for kind in units.KINDS:
        assert "StandardOutput" not in systemd_units.systemd_template(kind, "qemulab")
