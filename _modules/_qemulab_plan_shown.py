"""
What of a plan is named: every value that changes, and of what is new no mere default.

A thing that is made has some twenty values, most of them the same for every lab; docs/pillar.md has
those. What was declared is named, and what was made for it: MACs, ports, groups, images. Pure.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

from _qemulab_pillar_keys import Disk
from _qemulab_plan_changes import Change
from _qemulab_plan_changes import Path
from _qemulab_plan_changes import Plan
from _qemulab_plan_diff import members


def naming(value: Any, declared: Any, late: tuple[Change, ...] = ()) -> Callable[[Plan], Plan]:
    """
    Return what leaves those changes in a plan that a dry run and its apply name.

    value
        The machine or network, with all its defaults.

    declared
        The mapping that it was read from.

    late
        What waits beside what a plan has, and is not in its hands. Default: nothing.
    """

    def name(plan: Plan) -> Plan:
        changes, pending = (
            named(every, value, declared) for every in (plan.changes, plan.pending + late)
        )
        return plan._replace(changes=changes, pending=pending)

    return name


def named(changes: Iterable[Change], value: Any, declared: Any) -> tuple[Change, ...]:
    """
    Return those of some changes that are named; ``value`` and ``declared`` as for ``naming``.

    Of a thing that nothing at all was declared for, every value is named: something has to be.
    """
    every = tuple(changes)
    return (
        tuple(
            change
            for change in every
            if change.old is not None or not is_default(change.path, value, declared)
        )
        or every
    )


def is_default(path: Path, value: Any, declared: Any) -> bool:
    """Return whether a key of the pillar was not declared, and has the same default for all."""
    if path == ("disks",) and value.disks:
        return True  # a list of names, each of which comes with its own image's size
    for part in path:
        if isinstance(value, tuple):
            items = members(value)
            if part not in items:
                return False
            index = list(items).index(part)
            value = items[part]
            listed = isinstance(declared, Sequence) and index < len(declared)
            declared = declared[index] if listed else None
            continue
        given = declared.get(part) if isinstance(declared, Mapping) else None
        if dataclasses.is_dataclass(value):
            item = next((each for each in dataclasses.fields(value) if each.name == part), None)
            # What is no key of the pillar is a fact of the host, as the image of a disk is.
            image = isinstance(value, Disk) and part == "size"
            if item is None or item.metadata["made"] or image:
                return False
            value = getattr(value, part)
        declared = given
    return declared is None
