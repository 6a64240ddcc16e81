"""
Generated files, and what each was when it was written: so what somebody else has changed shows.

A file is never compared with what would be written today: a newer release may write another text,
and that is no reason to touch what works. It is compared with a mark that is kept when it is
written, in a record for each machine, each network, each lab and the host. A file without a mark,
as an older release has left it, is not called changed.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
from pathlib import Path

import _qemulab_host_lock as lock
import _qemulab_host_seam as host
from _qemulab_host_seam import File
from _qemulab_host_seam import HostError

EDITED = "edited"
ABSENT = "absent"

Marks = Mapping[str, list[str]]
"""By path, what a file may be: one mark, or two while it is being written."""


def write(record: Path, files: Sequence[File], others: Iterable[File] = ()) -> set[Path]:
    """
    Make generated files what they are to be, and keep what they are.

    record
        Where that is kept.

    files
        The files.

    others
        Files that are written behind them and not kept there: people are not to write those, and
        who reads them says so. Default: none.

    Returns which had to be written. Of one that has a mark, the new one is kept beside it before it
    is written: whenever this ends, it is not called changed for that.
    """
    # Nobody else writes a record of this directory until this is done, or has ended.
    with lock.hold(record.parent, directory=True):
        before = _read(record)
        new = {str(file.path): [_mark(file.mode, file.data())] for file in files}
        both = {
            path: [*mark, *(each for each in before[path] if each not in mark)]
            for path, mark in new.items()
            if path in before
        }
        during = _keep(record, before, {**before, **both})
        done = host.write_all([*files, *others])
        _keep(record, during, {**during, **new})
    return done


def changed(record: Path) -> dict[Path, str]:
    """
    Return which generated files somebody else has been at: ``edited`` or ``absent``, by path.

    What this process may not look at is not called changed. It is looked at without a lock: where
    something differs, the record is read once more, since whoever has just written a file has kept
    its new mark before.
    """
    return _changed(record) and _changed(record)


def _changed(record: Path) -> dict[Path, str]:
    """Return what ``changed`` does, looked at once."""
    found = {}
    for path, marks in _read(record).items():
        with contextlib.suppress(PermissionError):
            now = _present(Path(path))
            if now not in marks:
                found[Path(path)] = EDITED if now else ABSENT
    return found


def names(record: Path, elsewhere: str = "") -> dict[str, str]:
    """
    Return what ``changed`` does by the files' names.

    elsewhere
        The word for files that do not lie with the record, as a supervisor's: whether those are
        there is asked of the supervisor, and not here. Default: these have their names as well.
    """
    found = {}
    for path, how in changed(record).items():
        if not elsewhere or record.parent in path.parents:
            found[path.name] = how
        elif how == EDITED:
            found[elsewhere] = how
    return found


def _mark(mode: int, data: bytes) -> str:
    """Return what stands for a file: its permissions and a hash of what it holds."""
    return f"{mode:04o} {hashlib.sha256(data).hexdigest()}"


def _present(path: Path) -> str:
    """Return the mark of what is there, empty for nothing; a link or a directory has none."""
    try:
        with open(path, "rb", opener=lambda name, how: os.open(name, how | os.O_NOFOLLOW)) as file:
            return _mark(stat.S_IMODE(os.fstat(file.fileno()).st_mode), file.read())
    except PermissionError:
        raise
    except (FileNotFoundError, NotADirectoryError):
        return ""
    except OSError:
        return "no file"


def _read(record: Path) -> dict[str, list[str]]:
    """Return what is kept; a record that is damaged keeps nothing, until files are written."""
    try:
        found = host.read_json(record) or {}
    except HostError:
        return {}
    return {path: marks for path, marks in found.items() if isinstance(marks, list)}


def _keep(record: Path, before: Marks, after: Marks) -> Marks:
    """Write a record where it differs; a host that crashes may lose that, and is none the worse."""
    if after != before:
        host.write_all([File(record, host.json_text(after), durable=False)])
    return after
