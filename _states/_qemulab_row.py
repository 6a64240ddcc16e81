"""
A row: states that follow one another at once, since Salt runs the next whatever the one before
comes to.

The first state of a row starts, or stops, the machines of all of them; each of the others then
waits for its own. See "Starting together" in docs/design.md. Salt tells a state what it has run and
what it will run; whether it would run the next ones is worked out here, more narrowly than Salt
does. States call ``following`` and nothing else.
"""

from __future__ import annotations

from collections.abc import Container
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any
from typing import NamedTuple

import _qemulab_state as shape
from salt.state import STATE_INTERNAL_KEYWORDS
from salt.utils.state import gen_tag

Chunk = Mapping[str, Any]
"""A state of a run as Salt keeps it: its function, its arguments, its requisites."""
Results = Mapping[str, Any]
"""What the states before came to, by ``gen_tag``: Salt's ``__running__``."""

PLAIN = {"fun", "order", "state", "require", "require_in"}
"""Salt's own keys that a state may have and still be in a row: the others say that it runs under a
condition, or in a way of its own."""


class Following(NamedTuple):
    """
    A state of a row.

    function, name
        Of this name, and what it is about: ``vm_running`` and a machine.

    declaration
        What it declares of that.

    requires_this
        Whether it names the state that runs in its ``require``.
    """

    function: str
    name: str
    declaration: dict[str, Any]
    requires_this: bool


def following(dunders: Mapping[str, Any], functions: Container[str]) -> list[Following]:
    """
    Return the row of the state that runs, without that one.

    dunders
        The globals of its module, which Salt has put its own into.

    functions
        Functions of qemulab that a state of the row may be.
    """
    if dunders["__opts__"].get("failhard"):
        return []  # one that fails would be the last to run
    low, lowstate, running = (
        dunders.get(f"__{key}__", {}) for key in ("low", "lowstate", "running")
    )
    if dunders["__opts__"].get("test"):
        # What would be changed has no result yet, and to Salt that is as good as done.
        running = {
            tag: {**each, "result": each.get("result", True) is not False}
            for tag, each in running.items()
        }
    return [
        Following(chunk["fun"], chunk["name"], declaration(chunk), requires(chunk, low))
        for chunk in find_row(low, list(lowstate), running, functions)
    ]


def find_row(
    low: Chunk, lowstate: Sequence[Chunk], running: Results, functions: Container[str]
) -> list[Chunk]:
    """
    Return the states that may be started with one, in their order.

    low, lowstate, running
        Salt's dunders of that name: this state, all of the run in their order, and what those
        before it came to.
    """
    here = next((index for index, each in enumerate(lowstate) if same(each, low)), None)
    if here is None or is_special(low):
        return []
    if not all(gen_tag(each) in running for each in lowstate[:here]):
        return []  # one state is run by itself, as state.sls_id does
    row = [low]
    for chunk in lowstate[here + 1 :]:
        ours = chunk.get("state") == low.get("state") and chunk.get("lab") == low.get("lab")
        if not ours or chunk.get("fun") not in functions or is_special(chunk):
            break
        needs = chunk.get("require", ())
        if gen_tag(chunk) in running or not all(is_met(n, row, lowstate, running) for n in needs):
            break
        row.append(chunk)
    return row[1:]


def is_special(chunk: Chunk) -> bool:
    """Return whether a state runs under a condition, or in a way, of its own."""
    special = {key for key in STATE_INTERNAL_KEYWORDS if not key.startswith("__")} - PLAIN
    return bool(chunk.get("__prereq__")) or not special.isdisjoint(chunk)


def is_met(item: Any, row: Iterable[Chunk], lowstate: Iterable[Chunk], running: Results) -> bool:
    """
    Return whether all that an item of ``require`` names has succeeded, or is in the row.

    Of the row it may be no machine: whether one runs shows only when its own state has waited.
    """
    wanted = [chunk for chunk in lowstate if is_named(chunk, *named(item))]
    return bool(wanted) and all(
        running.get(gen_tag(chunk), {}).get("result") is True
        or (not chunk["fun"].startswith("vm_") and any(same(chunk, other) for other in row))
        for chunk in wanted
    )


def requires(chunk: Chunk, other: Chunk) -> bool:
    """Return whether a state names another one in its ``require``."""
    return any(is_named(other, *named(item)) for item in chunk.get("require", ()))


def named(item: Any) -> tuple[str | None, str]:
    """Return what an item of ``require`` names: a kind, or ``None`` for any, and a name."""
    if isinstance(item, Mapping):
        ((kind, name),) = item.items()
        return kind, name
    return None, item


def is_named(chunk: Chunk, kind: str | None, name: str) -> bool:
    """Return whether a requisite names a state. Source: salt.state, "require" by SLS, ID, name."""
    if kind == "sls":
        return name == chunk.get("__sls__") or name in chunk.get("__sls_included_from__", ())
    return kind in (None, "id", chunk.get("state")) and name in (chunk["__id__"], chunk["name"])


def same(chunk: Chunk, low: Chunk) -> bool:
    """Return whether two chunks are the same state of a run."""
    return all(chunk.get(key) == low.get(key) for key in ("state", "__id__", "name", "fun"))


def declaration(chunk: Chunk) -> dict[str, Any]:
    """Return what a state declares of its thing."""
    own = {key: value for key, value in chunk.items() if key not in ("name", "lab")}
    return shape.declaration(thawed(own))


def thawed(value: Any) -> Any:
    """Return a copy of a value that Salt has made immutable, and that compares."""
    if isinstance(value, Mapping):
        return {key: thawed(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [thawed(item) for item in value]
    return value
