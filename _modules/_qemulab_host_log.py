"""
What is done on the host, for a person who asks: ``-l debug`` shows each command, each exchange with
QEMU or a supervisor, each signal and each wait, with its end and its time. Part of the seam.

Lines go to the logger ``qemulab``. With it off, none of them is worked out. What a command reads on
its standard input and what it prints when all is well is not logged.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable
from collections.abc import Iterator
from typing import Any

LOGGER = logging.getLogger("qemulab")
LIMIT = 400
"""Characters of an answer that are shown."""


def short(value: Any) -> str:
    """Return a value in one line of bearable length."""
    text = " ".join(str(value).split())
    return text if len(text) <= LIMIT else f"{text[:LIMIT]}… ({len(text)} characters)"


def say(text: str, *values: Any) -> None:
    """Log a line that can be found among Salt's own; ``values`` as ``logging`` takes them."""
    LOGGER.debug(f"qemulab: {text}", *values)


@contextlib.contextmanager
def step(
    kind: str, what: Callable[[], str], announced: bool = False
) -> Iterator[Callable[[Any], None]]:
    """
    Log what is done in a ``with`` block, how it ended and how long it took.

    kind, what
        A word, and what returns the rest; not called with the log off.

    announced
        Also log that it begins: for what may take long. Default ``False``.

    Gives a function that takes what it came to.
    """
    endings: list[Any] = []
    if not LOGGER.isEnabledFor(logging.DEBUG):
        yield endings.append
        return
    words = f"{kind} {what()}"
    if announced:
        say("%s …", words)
    started = time.monotonic()

    def end(how: Any) -> None:
        say("%s: %s (%.1f ms)", words, short(how), (time.monotonic() - started) * 1000)

    try:
        yield endings.append
    except BaseException as err:
        end(f"{type(err).__name__}: {err}")
        raise
    end(" ".join(map(str, endings)) or "done")
