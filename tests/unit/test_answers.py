"""
What the host has answered: asked once for those who ask in a row, anew once it is old or changed.
"""

from __future__ import annotations

import pytest
from _qemulab_host import HostError
from _qemulab_run_answers import Answers


class Host:
    """A host that counts how often it is asked."""

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self) -> int:
        self.asked += 1
        return self.asked


def test_a_question_is_asked_once_until_its_answer_is_too_old() -> None:
    answers, ask = Answers(), Host()
    assert [answers.recent("units", ask), answers.recent("units", ask)] == [1, 1]
    assert answers.recent("network", ask) == 2
    assert answers.recent("units", ask, age=0) == 3


def test_what_was_changed_is_asked_anew() -> None:
    answers, ask = Answers(), Host()
    for question in ("units", "network"):
        answers.recent(question, ask)
    answers.forget("units")
    assert [answers.recent("units", ask), answers.recent("network", ask)] == [3, 2]
    answers.forget()
    assert [answers.recent("units", ask), answers.recent("network", ask)] == [4, 5]


def test_a_supervisor_that_hangs_is_waited_for_once() -> None:
    answers, calls = Answers(), Host()

    def hangs() -> int:
        calls()
        raise HostError("it does not answer")

    for _ in range(2):
        with pytest.raises(HostError, match="it does not answer"):
            answers.recent("units", hangs)
    assert calls.asked == 1
