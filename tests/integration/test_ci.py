"""
``.ci/run``: what fails beside other tests is run once more by itself.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

TESTS = """
import os
import pytest

@pytest.mark.parametrize("word", ["of a", "b::c"])
def test_beside_others(word):
    assert "PYTEST_XDIST_WORKER" not in os.environ

def test_wrong():
    assert False

def test_right():
    pass
"""


def test_what_passes_only_alone_is_named_and_what_fails_twice_fails(
    repo: Path, tmp_path: Path
) -> None:
    """The second end counts."""
    file = tmp_path / "test_made.py"
    file.write_text(TESTS, encoding="utf-8")
    # Whatever process of several this test runs in: the one that it starts is no part of that.
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        argv = [repo / ".ci/run", file, *words]
        return subprocess.run(argv, capture_output=True, text=True, env=env)

    done = run()
    assert done.returncode == 1
    assert "== once more, alone: 3 of main" in done.stdout
    assert done.stdout.splitlines()[-2:] == [
        "passed only alone: main: test_made.py::test_beside_others[b::c]",
        "passed only alone: main: test_made.py::test_beside_others[of a]",
    ]
    right = run("-k", "beside")
    assert right.returncode == 0, right.stdout + right.stderr
