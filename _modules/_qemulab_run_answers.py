"""
What the host has just answered: each question is asked once for the states that follow at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any
from typing import TypeVar
from typing import cast

from _qemulab_host_seam import HostError

ANSWER_AGE = 0.5
"""Seconds that an answer of the host is good for: the states of one apply ask in a row."""

T = TypeVar("T")


class Answers:
    """What was asked of the host, with the time at which it answered."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[float, Any]] = {}

    def recent(self, question: str, ask: Callable[[], T], age: float = ANSWER_AGE) -> T:
        """
        Return the answer to a question, asked anew only where the last one is too old.

        question
            What it is kept by.

        ask
            Asks it.

        age
            Seconds that an answer is good for. Default half a second.

        Raises the HostError that the last one was: a supervisor that hangs is waited for once.
        """
        # An answer that is on its way when they are forgotten is kept with those, for nobody.
        known = self._known
        when, answer = known.get(question, (float("-inf"), None))
        if time.monotonic() - when > age:
            try:
                answer = ask()
            except HostError as err:
                answer = err
            known[question] = (time.monotonic(), answer)
        if isinstance(answer, HostError):
            raise answer
        return cast(T, answer)

    def forget(self, question: str = "") -> None:
        """
        Ask the host anew next time, since something was changed on it.

        question
            What alone is asked anew. Default: whatever it is.
        """
        if question:
            self._known.pop(question, None)
        else:
            self._known = {}
