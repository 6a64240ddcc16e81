"""
What the host has answered: asked once for those who ask in a row, anew once it is old or changed.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from _qemulab_host_seam import HostError
from _qemulab_run_answers import Answers
from _qemulab_run_site import Site
from _qemulab_run_supervisor import LabSupervisor
from _qemulab_run_supervisor import supervisor_for


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
    answers.forget()
    assert [answers.recent("units", ask), answers.recent("network", ask)] == [3, 4]


def test_an_answer_that_was_on_its_way_while_something_changed_is_not_kept() -> None:
    """One thread asks, another changes what it asks for: what comes back is from before."""
    answers = Answers()

    def asked_before() -> str:
        answers.forget()
        return "before"

    assert answers.recent("units", asked_before) == "before"
    assert answers.recent("units", lambda: "after") == "after"


def test_a_supervisor_that_hangs_is_waited_for_once() -> None:
    answers, calls = Answers(), Host()

    def hangs() -> int:
        calls()
        raise HostError("it does not answer")

    for _ in range(2):
        with pytest.raises(HostError, match="it does not answer"):
            answers.recent("units", hangs)
    assert calls.asked == 1


CHANGES: dict[str, Callable[[LabSupervisor], Any]] = {
    "open": lambda supervisor: supervisor.open(),
    "start": lambda supervisor: supervisor.start([]),
    "stop": lambda supervisor: supervisor.stop("vm", "a"),
    "forget": lambda supervisor: supervisor.forget("vm", "a"),
    "close": lambda supervisor: supervisor.close(),
}
QUESTIONS: dict[str, Callable[[LabSupervisor], Any]] = {
    "check": lambda supervisor: supervisor.check(),
    "status": lambda supervisor: supervisor.status(),
    "has": lambda supervisor: supervisor.has("vm", "a"),
    "log": lambda supervisor: supervisor.log("vm", "a"),
    "remains": lambda supervisor: supervisor.remains(),
}


@pytest.mark.parametrize("refuses", [False, True])
@pytest.mark.parametrize("word", [*CHANGES, *QUESTIONS])
def test_what_a_supervisor_changes_is_asked_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, word: str, refuses: bool
) -> None:
    """Also where it has refused: some of it may be done."""
    site = Site("lab", str(tmp_path))

    def does(*_: Any) -> None:
        if refuses:
            raise HostError("no")

    real = supervisor_for(site.layout)
    monkeypatch.setattr(real, word, does)
    supervisor = LabSupervisor(real, site.answers)
    site.answers.recent("network", lambda: "before")
    if refuses:
        with pytest.raises(HostError, match="no"):
            (CHANGES | QUESTIONS)[word](supervisor)
    else:
        (CHANGES | QUESTIONS)[word](supervisor)
    found = site.answers.recent("network", lambda: "after")
    assert found == ("after" if word in CHANGES else "before")


def test_what_was_asked_before_a_lock_was_free_is_asked_anew(tmp_path: Path) -> None:
    site = Site("lab", str(tmp_path))
    site.answers.recent("units", lambda: "before")
    with site.lock("vm", "a"):
        assert site.answers.recent("units", lambda: "after") == "after"
