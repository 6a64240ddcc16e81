"""
One run and the next: what one has under way, and what the host has told it, is no other's.
"""

from __future__ import annotations

import importlib
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import _qemulab_check_rendering as declaration
import pytest
from _qemulab_pillar_keys import Vm
from _qemulab_plan_changes import Plan
from _qemulab_run_site import Site
from _qemulab_run_underway import Early
from _qemulab_run_underway import Pressed
from _qemulab_run_underway import Underway

Job = Callable[[dict[str, Any], list[str]], list[Site]]


@pytest.fixture
def job(tmp_path: Path) -> Job:
    """
    Return a function that runs a job of a minion without processes, with the minion's context:
    it returns the labs that the job is given.

    Salt is imported here and not above: it brings an importer that pytest cannot collect with.
    """
    face = importlib.import_module("_qemulab_face")

    def run(context: dict[str, Any], names: list[str]) -> list[Site]:
        found: list[Site] = []
        opts = {"qemulab.root": str(tmp_path)}
        thread = threading.Thread(
            target=lambda: found.extend(face.site(opts, {}, context, name) for name in names)
        )
        thread.start()
        thread.join()
        return found

    return run


@pytest.fixture
def failed(job: Job) -> tuple[dict[str, Any], Site]:
    """Return the context that a failed job leaves, and its lab with all that was under way."""
    context: dict[str, Any] = {}
    (site,) = job(context, ["lab"])
    site.run.early["vm", "a"] = Early(Plan())
    site.run.pressed["b"] = Pressed(Plan(), 1, 0.0)
    site.run.promised["c"] = Vm()
    site.run.leaving.add("d")
    site.answers.recent("units", dict)
    return context, site


def test_what_a_dry_run_has_said_is_nothing_to_a_real_one(tmp_path: Path) -> None:
    """Both with one context, as whoever calls Salt from Python has it."""
    face = importlib.import_module("_qemulab_face")
    context: dict[str, Any] = {}
    dry, again, real = (
        face.site({"qemulab.root": str(tmp_path), "test": test}, {}, context, "lab")
        for test in (True, True, None)
    )
    assert dry is again and real is not dry


def test_all_functions_of_a_run_share_one_site(job: Job) -> None:
    first, again, other = job({}, ["lab", "lab", "other"])
    assert first is again and other is not first
    assert (first.lab, other.lab) == ("lab", "other")


@pytest.mark.parametrize("copied", [False, True])
def test_what_a_job_had_under_way_ends_with_it(
    job: Job, failed: tuple[dict[str, Any], Site], copied: bool
) -> None:
    """With ``multiprocessing: False``: states have the minion's context (3006), or a copy."""
    context, _ = failed
    (site,) = job(dict(context) if copied else context, ["lab"])
    assert site.run == Underway()
    assert site.answers.recent("units", lambda: "asked anew") == "asked anew"


def test_what_a_run_had_under_way_ends_where_the_next_one_is_rendered(
    failed: tuple[dict[str, Any], Site],
) -> None:
    """In a program that has Salt in its own process, and calls it more than once."""
    _, site = failed
    declaration.read({"networks": {}}, site, lambda _name: site)
    assert site.run == Underway()
