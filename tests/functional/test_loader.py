"""
Salt's own loader on the checkout: what it publishes, under which names, and what it says of it.
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.smoke

PROBE = Path(__file__).with_name("loader_probe.py")


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory, repo: Path) -> dict[str, Any]:
    """Load everything once, in a Python that knows nothing of the checkout."""
    # Where ./salt-call keeps Salt's byte code: to compile all of it takes longer than the test.
    cache = f"pycache_prefix={Path(sys.prefix) / 'var/pycache'}"
    done = subprocess.run(
        [sys.executable, "-I", "-X", cache, PROBE, tmp_path_factory.mktemp("minion"), repo],
        capture_output=True,
        text=True,
        cwd="/",
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def published(repo: Path, folder: str) -> list[str]:
    """Return the names that the faces mean to publish: their functions without an underscore."""
    return sorted(
        f"qemulab.{node.name}"
        for path in repo.glob(f"{folder}/qemulab*.py")
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")
    )


def test_functions_have_one_virtual_name(loaded: dict[str, Any], repo: Path) -> None:
    """Every one of three files, none of a private sibling, none that begins with an underscore."""
    assert loaded["functions"] == published(repo, "_modules")
    assert len(loaded["functions"]) > 20


def test_states_have_one_virtual_name(loaded: dict[str, Any], repo: Path) -> None:
    """And states.py is no state, nor are its helpers."""
    assert loaded["states"] == published(repo, "_states")
    assert len(loaded["states"]) > 10


def test_nothing_is_warned_of(loaded: dict[str, Any]) -> None:
    """Neither in Salt's log nor by Python."""
    assert loaded["log"] == []
    assert loaded["warned"] == []


def test_documentation_is_salts(loaded: dict[str, Any]) -> None:
    """``sys.doc`` has each function with its example, ``sys.state_doc`` each state with its own."""
    assert sorted(loaded["doc"]) == loaded["functions"]
    assert [name for name, text in loaded["doc"].items() if "CLI Example:" not in text] == []
    texts = {name: text for name, text in loaded["state_doc"].items() if name != "qemulab"}
    assert sorted(texts) == loaded["states"]
    # Salt takes the marks of reStructuredText away and leaves the example.
    del texts["qemulab.mod_watch"]  # Salt calls it, nobody declares it
    assert [name for name, text in texts.items() if f"{name}:" not in text] == []


def test_signatures_are_plain(loaded: dict[str, Any]) -> None:
    """A master asks for them: no default that cannot be sent, no argument that swallows others."""
    assert loaded["packed"] > 0
    for kind in ("argspec", "state_argspec"):
        for name, spec in loaded[kind].items():
            assert not spec["varargs"], name
    assert sorted(loaded["argspec"]) == loaded["functions"]
    assert sorted(loaded["state_argspec"]) == loaded["states"]


def test_schemas_of_states_have_their_arguments(loaded: dict[str, Any]) -> None:
    """``sys.state_schema`` has each state."""
    schemas = {schema["title"]: schema for schema in loaded["state_schema"]}
    assert sorted(schemas) == loaded["states"]
    for name, schema in schemas.items():
        assert list(schema["properties"])[0] == "name"
        assert list(schema["properties"]) == loaded["state_argspec"][name]["args"]
