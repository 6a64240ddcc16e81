"""
What differs between two declarations, key by key. Pure.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

from _qemulab_plan_changes import CREATE
from _qemulab_plan_changes import RESTART
from _qemulab_plan_changes import Change
from _qemulab_schema import plain

Leaves = dict[str, tuple[Any, str]]


def leaves(spec: Any, skip: Iterable[str] = ()) -> Leaves:
    """
    Return every value of a declaration by the key that the user wrote, with its effect.

    Disks are keyed by their names, NICs by their positions; ``disks`` itself is the list of
    names, so that an order that changed shows as well. What says nothing is ``None``.
    """
    found: Leaves = {}
    for item in dataclasses.fields(spec):
        if item.name in skip:
            continue
        value = getattr(spec, item.name)
        effect = item.metadata["effect"]
        if item.name == "disks":
            found["disks"] = ([disk.name for disk in value], RESTART)
            for disk in value:
                _nest(found, f"disks:{disk.name}", leaves(disk, skip=("name",)))
        elif item.name == "nics":
            for index, nic in enumerate(value):
                _nest(found, f"nics:{index}", leaves(nic))
        elif item.name == "names":
            _nest(found, "names", {name: (address, effect) for name, address in value.items()})
        elif dataclasses.is_dataclass(value):
            _nest(found, item.name, leaves(value))
        elif item.name == "forwards":
            found["forwards"] = ([str(forward) for forward in value] or None, effect)
        else:
            empty = value in ("", (), {}) or (value == 0 and item.name == "vnc_port")
            found[item.name] = (None if empty else plain(value), effect)
    return found


def _nest(found: Leaves, prefix: str, inner: Leaves) -> None:
    found.update({f"{prefix}:{name}": leaf for name, leaf in inner.items()})


def differences(old: Leaves | None, new: Leaves) -> list[Change]:
    """
    Return what differs between two declarations, by key.

    old
        What was applied; ``None`` where nothing was, and then every value is created.

    new
        What is declared.
    """
    found = []
    for name, (value, effect) in new.items():
        if old is None:
            if value is not None:
                found.append(Change(name, None, value, CREATE))
        elif name not in old:
            if value is not None:
                found.append(Change(name, None, value, _of_list(name, effect)))
        elif old[name][0] != value:
            found.append(Change(name, old[name][0], value, effect))
    for name, (value, effect) in (old or {}).items():
        if name not in new and value is not None:
            found.append(Change(name, value, None, _of_list(name, effect)))
    return found


def _of_list(name: str, effect: str) -> str:
    """Return the effect of a key that comes or goes with its whole disk or NIC."""
    return RESTART if name.startswith(("disks:", "nics:")) else effect
