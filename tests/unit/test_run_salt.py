"""
``libexec/run_salt.py``: where a pillar is wrong.
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def place(tmp_path: Path, repo: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return the function, with a pillar that includes others."""
    (tmp_path / "config/pillar").mkdir(parents=True)
    (tmp_path / "config/pillar/qemulab.sls").symlink_to(tmp_path / "mine.sls")
    for name in ("mine.sls", "other.sls", "more/init.sls"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("include: []\n\tlab: {}\n", encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["salt-call", f"--config-dir={tmp_path / 'config'}"])
    return runpy.run_path(str(repo / "libexec/run_salt.py"))["place"]


@pytest.mark.parametrize(
    ("sls", "file"),
    [("qemulab", "mine.sls"), ("other", "other.sls"), ("more", "more/init.sls")],
)
def test_a_line_is_that_of_the_file_which_is_wrong(
    place: Any, tmp_path: Path, sls: str, file: str
) -> None:
    """The pillar's own, or one that it includes."""
    said = f"Rendering SLS '{sls}' failed, render error:\nfound character"
    assert place(1, said) == f"line 1 of {tmp_path / file}"
    assert place(2, said) == f"line 2 of {tmp_path / file} has a tab: YAML wants blanks"


def test_a_file_that_is_elsewhere_is_told_by_its_name(place: Any) -> None:
    """As one of another pillar root."""
    assert place(3, "Rendering SLS 'far.away' failed") == "line 3 of far.away"
