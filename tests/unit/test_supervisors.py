"""What both supervisors have in common: the end of what a unit has said."""

from __future__ import annotations

from pathlib import Path

import _qemulab_run_by_systemd as systemd
import _qemulab_run_log_cutter as consoles
import pytest
from _qemulab_host_paths import Layout
from _qemulab_run_by_supervisord import Supervisord
from _qemulab_run_protocol import last_lines
from hypothesis import given
from hypothesis import strategies as st

WORDS = st.lists(st.sampled_from("abcdef"))


@given(said=WORDS, tries=st.integers(1, 5), count=st.integers(1, 8))
def test_what_every_try_says_is_told_once(said: list[str], tries: int, count: int) -> None:
    """However often it was tried; the last line stays the last."""
    once = last_lines("\n".join(said), count)
    assert last_lines("\n".join(said * tries), count).splitlines()[-1:] == said[-1:]
    assert len(once.splitlines()) == min(count, len(set(said)))


@given(before=WORDS, after=WORDS)
def test_a_log_is_read_from_where_this_run_has_started_its_unit(
    tmp_path_factory: pytest.TempPathFactory, before: list[str], after: list[str]
) -> None:
    """Nothing earlier is told, whether the log was rotated since or not."""
    layout = Layout("lab", tmp_path_factory.mktemp("root"))
    log = layout.unit_log("vm", "a")
    log.parent.mkdir(parents=True)
    log.write_text("".join(f"{line}-before\n" for line in before))
    daemon = Supervisord(layout)
    assert daemon.log("vm", "a", 9).splitlines() == [f"{x}-before" for x in unique(before)]
    daemon.mark("vm", "a")
    new = "".join(f"{line}-after\n" for line in after)
    with open(log, "a") as stream:
        stream.write(new)
    expected = [f"{line}-after" for line in unique(after)]
    assert daemon.log("vm", "a", 9).splitlines() == expected
    log.rename(Path(f"{log}.1"))
    log.write_text(new)
    assert daemon.log("vm", "a", 9).splitlines() == expected


def test_what_is_left_of_a_lab_beside_another_one_is_taken_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its timer; the templates stay as long as the other lab has an instance."""
    monkeypatch.setattr(systemd, "SYSTEMD_DIRECTORY", tmp_path)
    (tmp_path / "qemulab-vm@.service").touch()
    (tmp_path / "qemulab-vm@other:a.service.d").mkdir()
    found = systemd.Systemd(Layout("lab", tmp_path / "root"))
    assert not found.remains()
    for name in (consoles.timer_name("lab"), consoles.service_name("lab")):
        (tmp_path / name).touch()
        assert found.remains()
        found.close()
        assert not found.remains() and not (tmp_path / name).exists()
    assert (tmp_path / "qemulab-vm@.service").exists()


def test_what_is_left_of_a_lab_whose_files_are_gone_is_taken_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The drop-ins of its machines, which no file of the lab names, and with them the templates."""
    monkeypatch.setattr(systemd, "SYSTEMD_DIRECTORY", tmp_path)
    monkeypatch.setattr(systemd.host, "run", lambda _argv: None)
    (tmp_path / "qemulab-vm@.service").touch()
    (tmp_path / "qemulab-vm@lab:a.service.d").mkdir()
    (tmp_path / "foreign@lab:a.service.d").mkdir()
    found = systemd.Systemd(Layout("lab", tmp_path / "root"))
    assert found.remains()
    found.close()
    assert not found.remains()
    assert [path.name for path in tmp_path.iterdir()] == ["foreign@lab:a.service.d"]


def unique(words: list[str]) -> list[str]:
    """Return words once each, where they stand last."""
    return list(dict.fromkeys(words[::-1]))[::-1]
