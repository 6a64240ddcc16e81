"""The seam, on the real host: commands, files, locks, processes, ports."""

from __future__ import annotations

import os
import shutil
import stat
import sys
import time
from pathlib import Path

import _qemulab_host_seam as host
import pytest
from _qemulab_host_seam import HostError


def names(directory: Path) -> list[str]:
    """Return all names in a directory, hidden ones too."""
    return sorted(os.listdir(directory))


# Commands


def test_a_command_leaves_its_status_and_both_outputs() -> None:
    """Where it is not checked, whatever they are."""
    found = host.run(["sh", "-c", "cat; echo err >&2; exit 3"], stdin="in\n", check=False)
    assert found == host.Result(3, "in\n", "err\n")
    assert host.run(["cat"]) == host.Result(0, "", "")


def test_a_command_that_fails_says_how_and_what_to_do() -> None:
    """Its status, the last lines of what it said, and the hint."""
    script = "for i in 1 2 3 4 5 6 7; do echo line $i >&2; done; exit 4"
    with pytest.raises(HostError) as caught:
        host.run(["sh", "-c", script], hint="try again")
    assert str(caught.value) == (
        f"sh -c {script} ended with exit status 4\n"
        "line 3\nline 4\nline 5\nline 6\nline 7\n"
        "try again"
    )
    assert (caught.value.output.count("\n"), caught.value.hint) == (4, "try again")


def test_a_command_that_says_nothing_on_stderr_is_quoted_from_stdout() -> None:
    """Some write their errors there."""
    with pytest.raises(HostError, match="ended with exit status 1\nwhy$"):
        host.run(["sh", "-c", "echo why; exit 1"])


def test_a_program_that_is_missing_is_called_so() -> None:
    """By name or by path, with what installs it."""
    with pytest.raises(HostError) as caught:
        host.run(["no-such-program-here", "-x"], hint="apt-get install it")
    assert str(caught.value) == "no-such-program-here is not installed\napt-get install it"
    with pytest.raises(HostError) as caught:
        host.run(["/nonexistent/program", "-x"])
    assert str(caught.value) == "/nonexistent/program -x: No such file or directory"


def test_a_command_that_takes_too_long_is_ended() -> None:
    """With whatever it started still holding its output."""
    began = time.monotonic()
    with pytest.raises(HostError) as caught:
        host.run(["sh", "-c", "sleep 3 & wait"], timeout=0.2, hint="wait")
    assert time.monotonic() - began < 2
    assert str(caught.value) == "sh -c sleep 3 & wait took longer than 0.2 s\nwait"


def test_a_command_runs_in_no_directory_of_ours_and_in_plain_language(tmp_path: Path) -> None:
    """What it prints can be read by a program."""
    assert host.run(["pwd"]).stdout == "/\n"
    assert host.run(["pwd"], cwd=tmp_path).stdout == f"{tmp_path}\n"
    assert host.run(["sh", "-c", "echo $LC_ALL"]).stdout == "C.UTF-8\n"


def test_output_that_is_no_text_is_no_error() -> None:
    """Bytes that are not UTF-8 are replaced."""
    assert host.run(["printf", r"a\377b"]).stdout == "a\ufffdb"


def test_system_directories_are_searched_whatever_path_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A minion's PATH may lack them; what it has comes first."""
    shell = host.find_binary("sh")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert host.find_binary("sh") is not None
    assert host.search_path().split(":")[0] == str(tmp_path)
    assert shell is not None
    shutil.copy(shell, tmp_path / "sh")
    assert host.find_binary("sh") == str(tmp_path / "sh")


def test_progress_is_for_a_person_who_waits(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On standard error, and only where it was asked for."""
    monkeypatch.delenv("QEMULAB_PROGRESS", raising=False)
    host.progress("building")
    monkeypatch.setenv("QEMULAB_PROGRESS", "1")
    host.progress("building")
    assert capsys.readouterr() == ("", "qemulab: building\n")


# Files


def test_a_file_is_written_with_its_mode_and_its_directories(tmp_path: Path) -> None:
    """Nothing else is left beside it."""
    path = tmp_path / "a/b/file"
    assert host.write(path, "text é\n", mode=0o600) is True
    assert path.read_text(encoding="utf-8") == "text é\n"
    assert host.mode(path) == 0o600
    assert names(path.parent) == ["file"]


def test_an_equal_file_is_left_alone(tmp_path: Path) -> None:
    """One with another mode is not equal."""
    path = tmp_path / "file"
    host.write(path, b"\x00\xff")
    before = path.stat()
    assert host.write(path, b"\x00\xff") is False
    assert path.stat().st_ino == before.st_ino
    assert host.write(path, b"\x00\xff", mode=0o600) is True
    assert host.mode(path) == 0o600


def test_a_reader_keeps_the_old_file_while_a_new_one_is_written(tmp_path: Path) -> None:
    """It is replaced, never written into."""
    path = tmp_path / "file"
    host.write(path, "old")
    with open(path, encoding="utf-8") as stream:
        assert host.write(path, "new") is True
        assert stream.read() == "old"
    assert path.read_text(encoding="utf-8") == "new"


def test_a_link_is_replaced_and_never_followed(tmp_path: Path) -> None:
    """Whoever may write to a directory could point it anywhere."""
    target = tmp_path / "target"
    target.write_text("mine", encoding="utf-8")
    link = tmp_path / "link"
    link.symlink_to(target)
    assert host.write(link, "mine") is True
    assert not link.is_symlink()
    assert target.read_text(encoding="utf-8") == "mine"


def test_a_write_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    """Neither a half file nor a temporary one; what was there stays."""
    (tmp_path / "directory/inside").mkdir(parents=True)
    with pytest.raises(HostError, match="directory could not be written: Is a directory"):
        host.write(tmp_path / "directory", "text")
    with pytest.raises(HostError, match="there is no system user nobody-of-this-name"):
        host.write(tmp_path / "file", "text", owner="nobody-of-this-name")
    assert names(tmp_path) == ["directory"]
    (tmp_path / "file").write_text("old", encoding="utf-8")
    with pytest.raises(HostError, match="could not be (made|written): (File exists|Not a dir)"):
        host.write(tmp_path / "file/below", "text")
    assert (tmp_path / "file").read_text(encoding="utf-8") == "old"


FULL = """
import resource
import sys
sys.path.insert(0, sys.argv[1])
import _qemulab_host_seam as host
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    host.write(sys.argv[2], "x" * 5000)
except host.HostError as err:
    print(err)
"""


def test_a_disk_that_takes_no_more_leaves_the_old_file(repo: Path, tmp_path: Path) -> None:
    """Whole, and alone: the kernel refuses in the middle of the new one."""
    path = tmp_path / "file"
    path.write_text("old", encoding="utf-8")
    command = [sys.executable, "-I", "-S", "-B", "-c", FULL, str(repo / "_modules"), str(path)]
    assert host.run(command).stdout == f"{path} could not be written: File too large\n"
    assert path.read_text(encoding="utf-8") == "old"
    assert names(tmp_path) == ["file"]


def test_a_file_is_read_whole_or_from_its_end(tmp_path: Path) -> None:
    """What is not UTF-8 is replaced; what is not there is nothing."""
    path = tmp_path / "file"
    path.write_bytes(b"one\ntwo\n\xff")
    assert host.read(path) == "one\ntwo\n\ufffd"
    assert host.read(path, limit=5) == "two\n\ufffd"
    assert host.read(path, limit=500) == "one\ntwo\n\ufffd"
    assert host.read(tmp_path / "none") is None
    assert host.read(path / "below") is None


def test_a_link_is_not_read(tmp_path: Path) -> None:
    """It could lead to what only root may see."""
    (tmp_path / "link").symlink_to("/etc/hostname")
    with pytest.raises(HostError, match="link: Too many levels of symbolic links"):
        host.read(tmp_path / "link")


def test_json_is_written_for_a_person_and_read_back(tmp_path: Path) -> None:
    """Damaged, it says what to do."""
    path = tmp_path / "file.json"
    assert host.write_json(path, {"b": [1], "a": None}) is True
    assert path.read_text(encoding="utf-8") == '{\n  "a": null,\n  "b": [\n    1\n  ]\n}\n'
    assert host.read_json(path) == {"a": None, "b": [1]}
    assert host.read_json(tmp_path / "none") is None
    path.write_text("{", encoding="utf-8")
    with pytest.raises(HostError) as caught:
        host.read_json(path)
    assert str(caught.value).startswith(f"{path} is damaged: ")
    assert caught.value.hint == "remove it and apply again"


def test_a_directory_keeps_its_mode_unless_an_owner_is_named(tmp_path: Path) -> None:
    """Made with its parents."""
    path = tmp_path / "a/b"
    host.make_directory(path, mode=0o700)
    assert host.mode(path) == 0o700
    host.make_directory(path, mode=0o755)
    assert host.mode(path) == 0o700
    (tmp_path / "file").touch()
    with pytest.raises(HostError, match="could not be made"):
        host.make_directory(tmp_path / "file/below")


@pytest.mark.needs_root
def test_an_owner_gets_file_and_directory(tmp_path: Path) -> None:
    """With the mode that was asked for, on an existing one too."""
    uid, gid = host.user_ids("daemon")
    for path in (tmp_path / "directory", tmp_path / "file"):
        if path.name == "file":
            host.write(path, "text", mode=0o640, owner="daemon")
        else:
            path.mkdir(mode=0o755)
            host.make_directory(path, mode=0o640, owner="daemon")
        found = path.stat()
        assert (found.st_uid, found.st_gid, host.mode(path)) == (uid, gid, 0o640)


def test_what_is_removed_is_never_what_a_link_leads_to(tmp_path: Path) -> None:
    """A file, a link, a whole directory; nothing is no error."""
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept/file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "kept")
    (tmp_path / "gone").mkdir()
    (tmp_path / "gone/link").symlink_to(tmp_path / "kept")
    (tmp_path / "file").touch()
    for name in ("link", "gone", "file"):
        assert host.remove(tmp_path / name) is True
        assert host.remove(tmp_path / name) is False
    assert names(tmp_path) == ["kept"]
    host.remove_empty(tmp_path / "kept")
    assert names(tmp_path / "kept") == ["file"]


def test_a_directory_is_listed_sorted_and_without_what_is_hidden(tmp_path: Path) -> None:
    """One that is not there has nothing in it."""
    for name in ("b", "a", ".c"):
        (tmp_path / name).touch()
    assert host.list_directory(tmp_path) == ["a", "b"]
    assert host.list_directory(tmp_path, hidden=True) == [".c", "a", "b"]
    assert host.list_directory(tmp_path / "none") == []
    assert host.list_directory(tmp_path / "a") == []
    assert host.mode(tmp_path / "none") == 0
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == host.mode(tmp_path / "a")


def test_users_are_those_of_the_host() -> None:
    """One that is not there is an error with what makes it."""
    assert host.user_ids("root") == (0, 0)
    assert host.user_groups("root")[0] == 0
    assert host.has_user("root")
    assert not host.has_user("nobody-of-this-name")
    with pytest.raises(HostError, match="salt-call state.apply lab makes it"):
        host.user_ids("nobody-of-this-name")


# Time and locks


def test_an_answer_is_waited_for_and_no_longer() -> None:
    """The last answer is returned, true or not."""
    answers = iter([0, "", None, "yes", "no"])
    assert host.wait_for(lambda: next(answers), 5) == "yes"
    began = time.monotonic()
    assert host.wait_for(lambda: [], 0.1) == []
    assert 0.1 <= time.monotonic() - began < 1
    asked = []
    assert host.wait_for(lambda: asked.append(1), 0) is None
    assert asked == [1]
