"""
The seam: the only file that runs commands, and that writes files, but for its other parts.

Everything above asks this file; tests of everything above replace it or run it in a namespace of
their own. Nothing here knows what a machine or a network is.
"""

from __future__ import annotations

import contextlib
import grp
import json
import os
import pwd
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from typing import NamedTuple

import _qemulab_host_log as log
import _qemulab_host_mounts as mounts

USER = "qemulab"
"""The system user that every process of a lab runs as."""

EXTRA_PATH = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")
"""Where a minion's PATH may not look although a distribution keeps our tools there."""


class HostError(Exception):
    """
    The host refused: what was tried, how it ended, its last lines and what to do about it.
    """

    def __init__(self, problem: str, output: str = "", hint: str = "") -> None:
        self.problem = problem
        self.output = "\n".join(output.strip().splitlines()[-5:])
        self.hint = hint
        parts = [problem]
        if self.output:
            parts.append(self.output)
        if hint:
            parts.append(hint)
        super().__init__("\n".join(parts))


class Result(NamedTuple):
    """What a finished command left: exit status and both outputs as text."""

    status: int
    stdout: str
    stderr: str


def search_path() -> str:
    """Return PATH with the system directories appended that it lacks."""
    have = [part for part in os.environ.get("PATH", "").split(os.pathsep) if part]
    return os.pathsep.join(have + [part for part in EXTRA_PATH if part not in have])


def find_binary(name: str) -> str | None:
    """Return the absolute path of a program, or ``None`` where the host has none."""
    return shutil.which(name, path=search_path())


def run(
    argv: list[str],
    stdin: str | None = None,
    check: bool = True,
    timeout: float = 60,
    hint: str = "",
    cwd: Path | None = None,
) -> Result:
    """
    Run a command to its end and return its result.

    argv
        Program and arguments; never a shell string.

    stdin
        Text for its standard input; none by default.

    check
        Raise where the exit status is not 0. Default ``True``.

    timeout
        Seconds until it is killed. Default 60.

    hint
        What the user can do about a failure; goes into the error.

    cwd
        Working directory; default ``/``.

    Raises HostError where the program is missing, fails (with ``check``) or takes too long.
    """
    program = find_binary(argv[0]) if "/" not in argv[0] else argv[0]
    if program is None:
        raise HostError(f"{argv[0]} is not installed", hint=hint)
    environment = dict(os.environ, PATH=search_path(), LC_ALL="C.UTF-8")
    try:
        with log.step("command", lambda: shlex.join(argv)) as ended:
            done = subprocess.run(
                [program, *argv[1:]],
                input=stdin,
                stdin=subprocess.DEVNULL if stdin is None else None,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=timeout,
                cwd=cwd or "/",
                env=environment,
                check=False,
            )
            ended(f"exit status {done.returncode}")
            if done.returncode:
                ended(done.stderr or done.stdout)
    except subprocess.TimeoutExpired as err:
        raise HostError(f"{' '.join(argv)} took longer than {timeout:g} s", hint=hint) from err
    except OSError as err:
        raise HostError(f"{' '.join(argv)}: {err.strerror}", hint=hint) from err
    result = Result(done.returncode, done.stdout, done.stderr)
    if check and result.status != 0:
        problem = f"{' '.join(argv)} ended with exit status {result.status}"
        raise HostError(problem, result.stderr or result.stdout, hint)
    return result


def launch(argv: list[str]) -> None:
    """Start a program that puts itself into the background, without waiting until it has."""
    log.say("command %s: not waited for", shlex.join(argv))
    try:
        subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            env=dict(os.environ, PATH=search_path(), LC_ALL="C.UTF-8"),
            start_new_session=True,
        )
    except OSError as err:
        raise HostError(f"{' '.join(argv)}: {err.strerror}") from err


def progress(text: str) -> None:
    """
    Tell a person who waits at a terminal what takes its time; silent anywhere else.

    ``QEMULAB_PROGRESS=1`` (set by ``./salt-call``) turns it on; it writes to standard error, so
    that standard output stays Salt's alone.
    """
    if os.environ.get("QEMULAB_PROGRESS") == "1":
        print(f"qemulab: {text}", file=sys.stderr, flush=True)


def is_root() -> bool:
    """Return whether this process may change the host."""
    return os.geteuid() == 0


# Files


def read(path: Path | str, limit: int | None = None) -> str | None:
    """Return a file's text (its last ``limit`` bytes where given), ``None`` where there is none."""
    try:
        # O_NOFOLLOW: some of what is read lies in directories that a less trusted user writes to.
        with open(path, "rb", opener=lambda name, how: os.open(name, how | os.O_NOFOLLOW)) as file:
            if limit is not None:
                file.seek(max(0, os.fstat(file.fileno()).st_size - limit))
            return file.read().decode("utf-8", "replace")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as err:
        raise HostError(f"{path}: {err.strerror}") from err


def read_json(path: Path | str) -> dict[str, Any] | None:
    """Return the mapping that a JSON file of ours holds, ``None`` where there is no such file."""
    try:
        text = read(path)
        value = {} if text is None else json.loads(text)
    except (HostError, ValueError, RecursionError) as err:
        raise damaged(path, err) from err
    if not isinstance(value, dict):
        raise damaged(path, "it holds no mapping")
    return None if text is None else value


def damaged(path: Path | str, reason: object) -> HostError:
    """Return the error for a file of ours that somebody else has been at."""
    return HostError(f"{path} is damaged: {reason}", hint="remove it and apply again")


class File(NamedTuple):
    """
    What a file is to be.

    path, text
        Where, and what it is to hold.

    mode
        Permission bits. Default 0644.

    owner
        The user that it belongs to. Default: whoever runs this.

    group
        The group that it belongs to: that of this user. Default: the owner's.

    durable
        Whether it must survive a crash of the host; what each start writes anew need not, and a
        sync takes a millisecond. Default ``True``.
    """

    path: Path
    text: str | bytes
    mode: int = 0o644
    owner: str | None = None
    durable: bool = True
    group: str | None = None

    def data(self) -> bytes:
        """Return what it is to hold, in bytes."""
        return self.text.encode() if isinstance(self.text, str) else self.text

    def is_there(self) -> bool:
        """Return whether it is that already."""
        with contextlib.suppress(OSError):
            if not self.path.is_symlink() and self.path.read_bytes() == self.data():
                return stat.S_IMODE(self.path.stat().st_mode) == self.mode
        return False


def write(
    path: Path | str,
    text: str | bytes,
    mode: int = 0o644,
    owner: str | None = None,
    durable: bool = True,
) -> bool:
    """Make one file hold a text, as ``write_all`` does; returns whether it had to be written."""
    return bool(write_all([File(Path(path), text, mode, owner, durable)]))


def write_all(files: Sequence[File]) -> set[Path]:
    """
    Make files what they are to be, each atomically and synced to disk.

    files
        The files.

    Returns which had to be written: an equal one is left alone. Each text is written beside its
    target, synced and renamed into place, so that a reader (or the host after a crash) sees the
    old file or the new one. Several at once are synced at once, which costs little more than one.
    """
    changed = [file for file in files if not file.is_there()]
    with contextlib.ExitStack() as unfinished:
        written = [(file, *unfinished.enter_context(_beside(file))) for file in changed]
        for file, temporary, descriptor in written:
            with _refused(file.path):
                if file.durable:
                    os.fsync(descriptor)
                os.rename(temporary, file.path)
        for directory in {file.path.parent for file in changed if file.durable}:
            with _refused(directory):
                sync_directory(directory)
    return {file.path for file in changed}


@contextlib.contextmanager
def _refused(path: Path) -> Iterator[None]:
    """Turn the kernel's refusal to write into a HostError."""
    try:
        yield
    except OSError as err:
        raise HostError(f"{path} could not be written: {err.strerror}") from err


@contextlib.contextmanager
def _beside(file: File) -> Iterator[tuple[str, int]]:
    """Write a file's text beside it; nothing of it is left in the end unless it was renamed."""
    with _refused(file.path):
        make_directory(file.path.parent)
        place = file.path.parent
        descriptor, temporary = tempfile.mkstemp(prefix=f".{file.path.name}.", dir=place)
    try:
        with _refused(file.path):
            with open(descriptor, "wb", closefd=False) as stream:
                stream.write(file.data())
            os.fchmod(descriptor, file.mode)
            if file.owner is not None:
                os.fchown(descriptor, *user_ids(file.owner))
            if file.group is not None:
                os.fchown(descriptor, -1, user_ids(file.group)[1])
        yield temporary, descriptor
    finally:
        os.close(descriptor)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)


def write_json(path: Path | str, value: Any) -> bool:
    """Make a file hold a value as JSON that a person can read; returns whether it was written."""
    return write(path, json_text(value))


def json_text(value: Any) -> str:
    """Return a value as JSON that a person can read."""
    return json.dumps(value, indent=2, sort_keys=True) + "\n"


def sync_directory(path: Path) -> None:
    """Make the names in a directory survive a crash of the host."""
    _sync(path, os.O_DIRECTORY)


def sync_file(path: Path) -> None:
    """Make what a file holds survive a crash of the host; it is not followed where it is a link."""
    _sync(path, os.O_NOFOLLOW)


def _sync(path: Path, flag: int) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | flag)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_directory(path: Path, mode: int = 0o755, owner: str | None = None) -> None:
    """Make a directory and its parents; an existing one keeps its mode unless an owner is given."""
    try:
        missing: list[Path] = []
        while not (place := [path, *path.parents][len(missing)]).is_dir():
            missing.append(place)
        for each in reversed(missing):
            each.mkdir(exist_ok=True)
            # Whatever the umask is: our user has to come through the parents.
            os.chmod(each, mode if each == path else 0o755)
        if owner is not None:
            ids = user_ids(owner)
            found = path.stat()
            if (found.st_uid, found.st_gid) != ids:
                os.chown(path, *ids)
            if stat.S_IMODE(found.st_mode) != mode:
                os.chmod(path, mode)
    except OSError as err:
        raise HostError(f"{path} could not be made: {err.strerror}") from err


def give(path: Path, owner: str = USER) -> None:
    """Make a file belong to a user; a disk that was copied into place belongs to whoever did."""
    try:
        os.chown(path, *user_ids(owner), follow_symlinks=False)
    except OSError as err:
        raise HostError(f"{path} could not be given to {owner}: {err.strerror}") from err


def remove(path: Path | str) -> bool:
    """
    Remove a file or a whole directory, never following a link; returns whether it was there.

    Raises HostError where something is mounted in the directory: that is not ours to empty.
    """
    target = Path(path)
    try:
        if target.is_dir() and not target.is_symlink():
            mounted = mounts.below(target)
            if mounted:
                hint = f"umount {mounted}"
                raise HostError(f"{target} is not removed: {mounted} is a mount point", hint=hint)
            shutil.rmtree(target)
        else:
            target.unlink()
    except FileNotFoundError:
        return False
    except OSError as err:
        raise HostError(f"{target} could not be removed: {err.strerror}") from err
    return True


def remove_empty(path: Path) -> None:
    """Remove a directory if it is empty; anything else about it is left alone."""
    with contextlib.suppress(OSError):
        path.rmdir()


def mode(path: Path | str) -> int:
    """Return a file's permission bits, links followed; 0 where there is none."""
    try:
        return stat.S_IMODE(os.stat(path).st_mode)
    except OSError:
        return 0


def list_directory(path: Path, hidden: bool = False) -> list[str]:
    """Return the sorted names in a directory; none where there is no such directory."""
    try:
        return sorted(name for name in os.listdir(path) if hidden or not name.startswith("."))
    except (FileNotFoundError, NotADirectoryError):
        return []


# Users


def user_ids(name: str) -> tuple[int, int]:
    """Return a user's numeric IDs (user, group). Raises HostError where there is no such user."""
    try:
        entry = pwd.getpwnam(name)
    except KeyError as err:
        hint = "salt-call state.apply lab makes it"
        raise HostError(f"there is no system user {name}", hint=hint) from err
    return entry.pw_uid, entry.pw_gid


def has_user(name: str = USER) -> bool:
    """Return whether the host has a user of this name."""
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True


def user_groups(name: str) -> tuple[int, set[int]]:
    """Return a user's numeric ID and the IDs of all its groups."""
    uid, gid = user_ids(name)
    return uid, set(os.getgrouplist(name, gid))


def future_groups() -> set[int]:
    """Return the groups that the user will be in once it is made: the one that may use KVM."""
    try:
        return {grp.getgrnam("kvm").gr_gid}
    except KeyError:
        return set()


def make_user(name: str = USER) -> None:
    """
    Make the system user that the processes run as, in the group that may use KVM if there is one.
    """
    if has_user(name):
        return
    groups = [word for gid in future_groups() for word in ("--groups", str(gid))]
    shell = find_binary("nologin") or "/bin/false"
    command = ["useradd", "--system", "--user-group", "--no-create-home", "--home-dir", "/"]
    run([*command, "--shell", shell, *groups, name])


# Time


def wait_for(
    question: Callable[[], Any], timeout: float, interval: float = 0.005, slowest: float = 0.05
) -> Any:
    """
    Ask until the answer is true, and return the last answer.

    question
        Called without arguments.

    timeout
        Seconds until it gives up; the last, untrue answer is then returned.

    interval
        Seconds between the first two questions; doubled from one to the next. Default 0.005.

    slowest
        Seconds between two questions at the most. Default 0.05.
    """
    deadline = time.monotonic() + timeout
    answer = question()
    if answer:
        return answer
    where = getattr(question, "__qualname__", "").replace("<locals>.", "")
    with log.step("wait", lambda: f"{where}, {timeout:g} s at most", announced=True) as ended:
        while not answer and time.monotonic() < deadline:
            time.sleep(interval)
            interval = min(interval * 2, slowest)
            answer = question()
        ended("it is so" if answer else "in vain")
    return answer
