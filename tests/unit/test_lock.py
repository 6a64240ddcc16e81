"""Locks, on the real host: one holder, named to those who wait in vain."""

from __future__ import annotations

import contextlib
import fcntl
import sys
import time
from pathlib import Path

import _qemulab_host_lock as lock
import _qemulab_host_seam as host
import pytest
from _qemulab_host_seam import HostError
from commands import SLEEP
from commands import running

HOLD = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
import time
import _qemulab_host_lock as lock
with lock.hold(Path(sys.argv[2])):
    print(flush=True)
    time.sleep(60)
"""


def test_a_lock_has_one_holder_and_names_it(repo: Path, tmp_path: Path) -> None:
    """Who comes second waits, and is told for whom; a holder that dies lets go."""
    path = tmp_path / "locks/vm-master"
    with running(
        [sys.executable, "-I", "-S", "-B", "-c", HOLD, str(repo / "_modules"), str(path)]
    ) as holder:
        began = time.monotonic()
        with pytest.raises(HostError) as caught, lock.hold(path, timeout=0.2):
            pass
        assert 0.2 <= time.monotonic() - began < 2
        name = Path(f"/proc/{holder.pid}/comm").read_text(encoding="utf-8").strip()
        said = f"{path} is held by process {holder.pid} ({name}) for over 0.2 s\n"
        assert str(caught.value).startswith(said)
    with lock.hold(path, timeout=0):
        pass
    assert host.mode(path) == 0o600


def test_a_lock_that_a_stranger_holds_names_him(tmp_path: Path) -> None:
    """What an earlier holder may have written down is not believed."""
    path = tmp_path / "lock"
    path.write_text("1\n", encoding="utf-8")
    with running(["sh", "-c", 'exec 9>>"$0"; flock 9; echo; exec sleep 60', str(path)]) as holder:
        with pytest.raises(HostError, match="is held by"), lock.hold(path, timeout=0.1):
            pass
    assert holder.poll() is not None
    with lock.hold(path, timeout=0):
        assert path.read_text(encoding="utf-8") == "1\n"


def test_a_lock_is_waited_for_until_it_is_free(tmp_path: Path) -> None:
    """Within its deadline."""
    path = tmp_path / "lock"
    script = 'exec 9>"$0"; flock 9; echo; sleep 0.2'
    with running(["sh", "-c", script, str(path)]), lock.hold(path, timeout=5):
        with open(path, "rb") as other, pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_child_never_keeps_its_parents_lock(tmp_path: Path) -> None:
    """A machine that is started under a lock lives much longer than it."""
    path = tmp_path / "lock"
    with contextlib.ExitStack() as stack:
        with lock.hold(path):
            stack.enter_context(running(SLEEP))
        with lock.hold(path, timeout=0):
            pass


def test_a_directory_is_locked_itself(tmp_path: Path) -> None:
    """Also where a link leads to it, as to another file system; nothing is left in it."""
    (tmp_path / "link").symlink_to(tmp_path / "place")
    place = tmp_path / "place"
    with lock.hold(place, directory=True), pytest.raises(HostError, match="is held by process"):
        with lock.hold(tmp_path / "link", timeout=0.1, directory=True):
            pass
    with lock.hold(tmp_path / "link", timeout=0, directory=True):
        assert list(place.iterdir()) == []


def test_an_error_lets_the_lock_go(tmp_path: Path) -> None:
    """Whatever it is."""
    with pytest.raises(KeyError), lock.hold(tmp_path / "lock"):
        raise KeyError
    with lock.hold(tmp_path / "lock", timeout=0):
        pass


def test_a_lock_that_its_holder_has_removed_is_nobodys(tmp_path: Path) -> None:
    """It lay with what it guards; who waited for it takes the one that is there now."""
    path = tmp_path / "image/.lock"
    script = 'exec 9>"$0"; flock 9; echo; sleep 0.2; rm -r "${0%/*}"; sleep 0.2'
    path.parent.mkdir()
    with running(["sh", "-c", script, str(path)]), lock.hold(path, timeout=5):
        with open(path, "rb") as other, pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
