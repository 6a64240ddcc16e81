"""
What a machine said on its serial console, for a person.
"""

from __future__ import annotations

import re
from pathlib import Path

import _qemulab_host_seam as host

LINE_BYTES = 400
"""Bytes that are read of the log for each line that is asked for."""


def last_lines(path: Path, count: int) -> str:
    """Return the last lines of a console's log, empty where there is none."""
    text = host.read(path, limit=count * LINE_BYTES) or ""
    # The firmware moves the cursor and paints; a log has no screen.
    # Where a long log was cut, there may be a hole.
    plain = re.sub(r"\x1b(\[[0-9;?=]*[A-Za-z]|[()][A-Z0-9])|\r|\0", "", text)
    return "\n".join(plain.splitlines()[-count:])
