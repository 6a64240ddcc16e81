"""
What is mounted where, as this process sees it. Source: proc(5), mountinfo
"""

from __future__ import annotations

import os
import re
from pathlib import Path


def points() -> list[str]:
    """Return every mount point; blanks and the like are octal in the kernel's list."""
    text = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace")
    fields = [line.split()[4] for line in text.splitlines()]
    return [re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), field) for field in fields]


def below(path: Path) -> str:
    """Return a mount point that is a directory or lies below it; empty where there is none."""
    real = os.path.realpath(path)
    return next((each for each in points() if f"{each}/".startswith(f"{real}/")), "")


def has_root() -> bool:
    """
    Return whether ``/`` is a mount point, as it is but in a plain chroot.

    ``unshare --propagation private`` fails where it is none.
    """
    return "/" in points()
