"""
What of a plan is named: every value that changes, and of what is new no mere default.

A thing that is made has some twenty values, most of them the same for every lab; docs/pillar.md has
those. What was declared is named, and what was made for it: MACs, ports, groups, images. Pure.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

from _qemulab_keys import Disk

Words = Mapping[str, Mapping[str, Any]]


def named(changes: Words, value: Any, declared: Any) -> dict[str, Mapping[str, Any]]:
    """
    Return those of a plan's changes that a dry run and its apply name.

    changes
        By key, each with old, new and effect.

    value
        The machine or network, with all its defaults.

    declared
        The mapping that it was read from.

    Of a thing that nothing at all was declared for, every value is named: something has to be.
    """
    found = {
        key: change
        for key, change in changes.items()
        if change["old"] is not None or not is_default(key, value, declared)
    }
    return found or dict(changes)


def is_default(key: str, value: Any, declared: Any) -> bool:
    """Return whether a key of the pillar was not declared, and has the same default for all."""
    if key == "disks" and value.disks:
        return True  # a list of names, each of which comes with its own image's size
    for part in key.split(":"):
        if isinstance(value, tuple):
            names = [getattr(item, "name", str(index)) for index, item in enumerate(value)]
            if part not in names:
                return False
            index = names.index(part)
            value = value[index]
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
