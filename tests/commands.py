"""
Commands that run beside a test.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator

SLEEP = [sys.executable, "-I", "-S", "-c", "import time; print(flush=True); time.sleep(60)"]
"""One that says a line and sleeps for a minute; words may follow, to know it by."""


@contextlib.contextmanager
def running(command: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command until it has said its first line; end it behind the block."""
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            yield process
        finally:
            process.kill()
