"""Generated files are compared with what they were when they were written: with nothing else."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import _qemulab_host_generated as written
import _qemulab_host_lock as lock
import _qemulab_host_seam as host
import pytest
from _qemulab_host_paths import WRITTEN
from _qemulab_host_seam import File
from _qemulab_host_seam import HostError
from commands import running


class Killed(BaseException):
    """The apply ends here."""


def files(place: Path, text: str = "text\n") -> list[File]:
    """Return two generated files."""
    return [File(place / "conf", text), File(place / "script", f"#!/bin/sh\n# {text}", 0o755)]


@pytest.fixture
def record(tmp_path: Path) -> Path:
    """Return the record of two files that were just written."""
    path = tmp_path / WRITTEN
    assert written.write(path, files(tmp_path)) == {tmp_path / "conf", tmp_path / "script"}
    assert written.changed(path) == {}
    return path


def test_what_is_there_is_not_written_again(record: Path, tmp_path: Path) -> None:
    """Neither the files nor their record."""
    before = record.stat()
    assert written.write(record, files(tmp_path)) == set()
    assert record.stat() == before


def test_what_a_person_does_to_a_file_shows(record: Path, tmp_path: Path) -> None:
    """Edited in place, replaced, made a link, another mode, removed; put back, it does not."""
    conf = tmp_path / "conf"
    conf.write_text("text\n# mine\n", encoding="utf-8")
    assert written.changed(record) == {conf: "edited"}
    conf.write_text("text\n", encoding="utf-8")
    assert written.changed(record) == {}
    conf.chmod(0o600)
    assert written.changed(record) == {conf: "edited"}
    conf.unlink()
    assert written.changed(record) == {conf: "absent"}
    conf.symlink_to(tmp_path / "script")
    assert written.changed(record) == {conf: "edited"}
    conf.unlink()
    conf.mkdir()
    assert written.changed(record) == {conf: "edited"}
    conf.rmdir()
    assert written.write(record, files(tmp_path)) == {conf}
    assert written.changed(record) == {}


def test_what_a_new_release_writes_otherwise_is_no_change(record: Path, tmp_path: Path) -> None:
    """Nor is a file that an old one has left without a mark; both have one at the next write."""
    assert written.changed(record) == {}
    (tmp_path / "old").write_text("by an old release", encoding="utf-8")
    assert written.changed(record) == {}
    written.write(record, [*files(tmp_path, "another text\n"), File(tmp_path / "old", "new")])
    assert written.changed(record) == {}
    (tmp_path / "old").write_text("mine", encoding="utf-8")
    assert written.changed(record) == {tmp_path / "old": "edited"}


@pytest.mark.parametrize("marked", [True, False], ids=["marked", "by an old release"])
def test_a_write_that_is_killed_leaves_no_file_called_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, marked: bool
) -> None:
    """Before the file, behind it, with one of two written; a person's edit still shows."""
    record = tmp_path / WRITTEN
    real = host.write_all
    for count in range(4):
        for each in files(tmp_path):
            each.path.unlink(missing_ok=True)
        record.unlink(missing_ok=True)
        if marked:
            written.write(record, files(tmp_path))
        else:
            real(files(tmp_path))
        left = count

        def one_by_one(several: Any) -> set[Path]:
            nonlocal left
            done = set()
            for file in several:
                if not left:
                    raise Killed
                left -= 1
                done |= real([file])
            return done

        monkeypatch.setattr(host, "write_all", one_by_one)
        with contextlib.suppress(Killed):
            written.write(record, files(tmp_path, "another\n"))
        monkeypatch.setattr(host, "write_all", real)
        assert written.changed(record) == {}, count
        (tmp_path / "script").write_text("mine", encoding="utf-8")
        expected = {tmp_path / "script": "edited"} if marked or count == 3 else {}
        assert written.changed(record) == expected, count


def test_what_an_apply_writes_beside_a_look_is_not_called_changed(
    record: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The record is read, then the apply writes both, then the files are looked at."""
    real, wrote = host.read_json, []

    def read(path: Path) -> Any:
        found = real(path)
        if not wrote:
            wrote.append(path)
            written.write(record, files(tmp_path, "another\n"))
        return found

    monkeypatch.setattr(host, "read_json", read)
    assert written.changed(record) == {}
    assert wrote == [record]


def test_who_writes_there_is_waited_for_and_named(
    record: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not for ever; and no file of a lock is left behind."""
    real = lock.hold
    monkeypatch.setattr(lock, "hold", lambda path, **given: real(path, 0.1, **given))
    script = 'exec 9<"$0"; flock 9; echo; exec sleep 60'
    with running(["sh", "-c", script, str(tmp_path)]):
        with pytest.raises(HostError, match=r"is held by .* for over 0.1 s"):
            written.write(record, files(tmp_path, "another\n"))
    written.write(record, files(tmp_path, "another\n"))
    assert {each.name for each in tmp_path.iterdir()} == {"conf", "script", record.name}


def test_a_damaged_record_keeps_nothing_until_files_are_written(
    record: Path, tmp_path: Path
) -> None:
    """It is no definition: nobody has to be asked for what was in it."""
    (tmp_path / "conf").write_text("mine", encoding="utf-8")
    for text in ("", "[]", '{"a": 1}', "\0"):
        record.write_text(text, encoding="utf-8")
        assert written.changed(record) == {}
    written.write(record, files(tmp_path))
    assert written.changed(record) == {}
