"""
What differs between two declarations, value by value, and what a thing is when some of that waits.

Both walk the fields of the dataclasses in ``_qemulab_pillar_keys``, so that a new key needs nothing
here. Pure.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Set
from typing import Any
from typing import NamedTuple
from typing import TypeVar
from typing import cast

from _qemulab_pillar_keys import START
from _qemulab_pillar_schema import plain
from _qemulab_plan_changes import CREATE
from _qemulab_plan_changes import RESTART
from _qemulab_plan_changes import Change
from _qemulab_plan_changes import Path

T = TypeVar("T")

LISTS = ("disks", "nics")
"""Lists that a machine is built from: an item comes or goes with a restart only."""


class Leaf(NamedTuple):
    """One value of a declaration, with what its key says of it."""

    value: Any
    effect: str
    takes: str


Leaves = dict[Path, Leaf]


def leaves(spec: Any, skip: Collection[str] = ()) -> Leaves:
    """
    Return every value of a declaration by its path. What says nothing is ``None``.

    Disks go by their names, NICs by their positions; ``disks`` itself is the list of names, so that
    an order that changed shows as well.
    """
    found: Leaves = {}
    for item in dataclasses.fields(spec):
        if item.name in skip:
            continue
        value, here = getattr(spec, item.name), (item.name,)
        effect, takes = item.metadata["effect"], item.metadata["takes"]
        if item.name in LISTS:
            if item.name == "disks":
                found[here] = Leaf([disk.name for disk in value], RESTART, START)
            for name, each in members(value).items():
                _nest(found, (*here, name), leaves(each, skip=("name",)))
        elif item.name == "names":
            inside: Leaves = {
                (name,): Leaf(address, effect, takes) for name, address in value.items()
            }
            _nest(found, here, inside)
        elif dataclasses.is_dataclass(value):
            _nest(found, here, leaves(value))
        elif item.name == "forwards":
            found[here] = Leaf([str(forward) for forward in value] or None, effect, takes)
        else:
            empty = value in ("", (), {}) or (value == 0 and item.name == "vnc_port")
            found[here] = Leaf(None if empty else plain(value), effect, takes)
    return found


def members(items: Iterable[Any]) -> dict[str, Any]:
    """Return the items of a list by what their paths have: disks' names, NICs' positions."""
    return {getattr(item, "name", str(index)): item for index, item in enumerate(items)}


def _nest(found: Leaves, prefix: Path, inner: Leaves) -> None:
    found.update({(*prefix, *path): leaf for path, leaf in inner.items()})


def differences(old: Leaves | None, new: Leaves) -> list[Change]:
    """
    Return what differs between two declarations.

    old
        What was applied; ``None`` where nothing was, and then every value is created.

    new
        What is declared.
    """
    found = []
    for path, leaf in new.items():
        before = old.get(path) if old is not None else None
        if old is None:
            if leaf.value is not None:
                found.append(Change(path, None, leaf.value, CREATE, leaf.takes))
        elif before is None:
            if leaf.value is not None:
                effect = _effect_of_coming(path, leaf)
                found.append(Change(path, None, leaf.value, effect, leaf.takes))
        elif before.value != leaf.value:
            found.append(Change(path, before.value, leaf.value, leaf.effect, leaf.takes))
    for path, leaf in (old or {}).items():
        if path not in new and leaf.value is not None:
            effect = _effect_of_coming(path, leaf)
            found.append(Change(path, leaf.value, None, effect, leaf.takes))
    return found


def _effect_of_coming(path: Path, leaf: Leaf) -> str:
    """Return the effect of a value that comes or goes, as with its whole disk or NIC."""
    return RESTART if path[0] in LISTS else leaf.effect


def merged(old: T, declared: T, waiting: Set[Path]) -> T:
    """
    Return what a thing is after a plan: as declared, and what waits as it was.

    old
        What it is.

    declared
        What it is to be.

    waiting
        Paths of the values that stay as they are.

    A disk or NIC that comes or goes waits with any of its values, and a list of disks keeps its old
    members and their order where the list itself waits.
    """
    kept = {}
    for item in dataclasses.fields(cast("Any", declared)):
        inside = {path[1:] for path in waiting if path[0] == item.name}
        if inside:
            was, now = getattr(old, item.name), getattr(declared, item.name)
            if item.name in LISTS:
                kept[item.name] = tuple(_merged_items(members(was), members(now), inside).values())
            else:
                kept[item.name] = _merged_value(was, now, inside)
    return cast("T", dataclasses.replace(cast("Any", declared), **kept)) if kept else declared


def _merged_value(old: Any, declared: Any, waiting: Set[Path]) -> Any:
    """Return one value after a plan; the empty path is the value itself."""
    if () in waiting:
        return old
    if dataclasses.is_dataclass(declared):
        return merged(old, declared, waiting)
    return _merged_items(old, declared, waiting)


def _merged_items(
    old: Mapping[str, Any], declared: Mapping[str, Any], waiting: Set[Path]
) -> dict[str, Any]:
    """Return the items of a list or mapping after a plan; the empty path is which there are."""
    late = {path[0] for path in waiting if path}
    if () in waiting:
        names = list(old)
    else:
        names = [name for name in declared if name in old or name not in late]
        names += [name for name in old if name not in declared and name in late]
    found = {}
    for name in names:
        inside = {path[1:] for path in waiting if path and path[0] == name}
        if name not in declared:
            found[name] = old[name]
        elif name not in old or not inside:
            found[name] = declared[name]
        else:
            found[name] = _merged_value(old[name], declared[name], inside)
    return found
