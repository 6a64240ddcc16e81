"""
How a mapping of the pillar is read into a dataclass, collecting every fault on the way.

The dataclasses of ``_qemulab_pillar_keys`` name a kind, a default and an effect for each key;
``read`` walks them and does not stop at the first fault. Pure: neither Salt nor the host.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from dataclasses import field
from typing import Any
from typing import TypeVar

from _qemulab_pillar_kinds import Bad
from _qemulab_pillar_kinds import Kind
from _qemulab_pillar_kinds import Notes
from _qemulab_pillar_kinds import below
from _qemulab_pillar_kinds import show

T = TypeVar("T")


# Compositions


def words_or(kind: Kind, *allowed: str) -> Kind:
    """Return the kind that takes one of a few words, or else what another kind takes."""

    def parse(value: Any, path: str, notes: Notes) -> Any:
        if isinstance(value, str) and value in allowed:
            return value
        try:
            return kind.parse(value, path, notes)
        except Bad as err:
            raise Bad(f"{err}; or one of {', '.join(allowed)}") from err

    return Kind(" or ".join([f"`{word}`" for word in allowed] + [kind.name]), parse)


def list_of(kind: Kind) -> Kind:
    """Return the kind of a list, read into a tuple; each item's path ends in its index."""

    def parse(value: Any, path: str, notes: Notes) -> tuple[Any, ...]:
        if not isinstance(value, (list, tuple)):
            raise Bad(f"{show(value)} is not a list")
        return tuple(
            attempt(kind, item, f"{path}:{index}", notes) for index, item in enumerate(value)
        )

    return Kind(f"list of {kind.name}", parse)


def mapping_of(key_kind: Kind, kind: Kind) -> Kind:
    """Return the kind of a mapping from a name to a value, read into a dict in order."""

    def parse(value: Any, path: str, notes: Notes) -> dict[str, Any]:
        if not isinstance(value, Mapping):
            raise Bad(f"{show(value)} is not a mapping of names")
        found = {}
        for name, item in value.items():
            here = below(path, name)
            if attempt(key_kind, name, here, notes) is not None:
                found[str(name)] = attempt(kind, item, here, notes)
        return found

    return Kind(f"mapping of {key_kind.name} to {kind.name}", parse)


def nested(cls: type[Any], type_name: str = "mapping") -> Kind:
    """Return the kind of a mapping that is read into a dataclass; ``null`` means all defaults."""

    def parse(value: Any, path: str, notes: Notes) -> Any:
        return read(cls, {} if value is None else value, path, notes)

    return Kind(type_name, parse)


def attempt(kind: Kind, value: Any, path: str, notes: Notes) -> Any:
    """Read a value; a refusal becomes a fault and ``None``."""
    try:
        return kind.parse(value, path, notes)
    except Bad as err:
        notes.fault(path, str(err))
        return None


# Dataclasses


def key(
    kind: Kind,
    default: Any = dataclasses.MISSING,
    effect: str = "",
    takes: str = "",
    unit: str = "",
    doc: str = "",
    default_text: str = "",
    of: type[Any] | None = None,
    made: bool = False,
) -> Any:
    """
    Declare one key of a dataclass.

    kind
        How its value is read.

    default
        Its value when the pillar says nothing; a key without one is required.

    effect
        What a change of it costs on a running machine or network; ``_qemulab_plan_changes`` has the
        words.

    takes
        What takes a change of it up (``_qemulab_pillar_keys`` has the words).

    unit, doc
        For the documentation.

    default_text
        What the documentation says where the default is worked out from other values.

    of
        The dataclass inside, for the documentation of nested keys.

    made
        Whether a default is made for the one thing, and not the same for all: a MAC, a port. It is
        named when the thing is created, as what was declared is.
    """
    metadata = {
        "kind": kind,
        "effect": effect,
        "takes": takes,
        "unit": unit,
        "doc": doc,
        "default_text": default_text,
        "of": of,
        "made": made,
    }
    if isinstance(default, dict):
        return field(default_factory=lambda: dict(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def read(cls: type[T], value: Any, path: str, notes: Notes, lenient: bool = False) -> T | None:
    """
    Read a mapping into a dataclass, noting every fault.

    cls
        A dataclass whose fields were declared with ``key``.

    value
        What the pillar has.

    path
        Where it has it, for the faults.

    notes
        Where faults and warnings go.

    lenient
        Pass over unknown keys: for what an older version stored. Default ``False``.

    Returns the instance, ``None`` where a required key is missing or the value is no mapping.
    """
    if not isinstance(value, Mapping):
        notes.fault(path, f"{show(value)} is not a mapping of keys")
        return None
    fields = {item.name: item for item in dataclasses.fields(cls) if item.init}  # type: ignore[arg-type]
    found: dict[str, Any] = {}
    for name, item in value.items():
        here = below(path, name)
        if name not in fields:
            if not lenient:
                notes.fault(here, unknown_key(name if isinstance(name, str) else "", list(fields)))
            continue
        if item is None or (lenient and item == fields[name].default):
            continue  # "key:" with nothing behind it says nothing: the default stands
        parsed = attempt(fields[name].metadata["kind"], item, here, notes)
        if parsed is not None:
            found[name] = parsed
    complete = True
    for name, item_field in fields.items():
        required = (
            item_field.default is dataclasses.MISSING
            and item_field.default_factory is dataclasses.MISSING
        )
        if required and name not in found:
            complete = False
            if value.get(name) is None:
                notes.fault(f"{path}:{name}", "is missing")
    return cls(**found) if complete else None


def compact(value: Any) -> Any:
    """
    Return a dataclass as plain data without what has its default.

    Reading the result again gives an equal dataclass: this is how a declaration travels through
    a state's arguments.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        found = {}
        for item in dataclasses.fields(value):
            here = getattr(value, item.name)
            default = item.default
            if default is dataclasses.MISSING and callable(item.default_factory):
                default = item.default_factory()
            if here != default:
                found[item.name] = compact(here)
        return found
    if isinstance(value, (list, tuple)):
        return [compact(item) for item in value]
    if isinstance(value, Mapping):
        return {str(name): compact(item) for name, item in value.items()}
    return value


def arguments(value: Any, declared: Any) -> Any:
    """
    Return a dataclass as a state's arguments: what was declared, and what was made for it.

    value
        What the declaration was read into, with all defaults.

    declared
        The mapping that it was read from. Only whether it says something counts: what is said is
        taken from ``value``, where it has its right type.

    Reading the result again, and working out its defaults, gives an equal dataclass.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        given = declared if isinstance(declared, Mapping) else {}
        found = {}
        for item in dataclasses.fields(value):
            here, said = getattr(value, item.name), given.get(item.name)
            if said is not None:
                found[item.name] = arguments(here, said)
            elif item.metadata["made"] and here != item.default:
                found[item.name] = compact(here)
            elif _has_made(here):
                found[item.name] = arguments(here, None)
        return found
    if isinstance(value, (list, tuple)):
        listed = declared if isinstance(declared, (list, tuple)) else []
        padded = [*listed, *[None] * len(value)]
        return [arguments(item, said) for item, said in zip(value, padded, strict=False)]
    return compact(value)


def _has_made(value: Any) -> bool:
    """Return whether anything inside a list or a mapping of keys was made for it."""
    if isinstance(value, (list, tuple)):
        return any(_has_made(item) for item in value)
    if not dataclasses.is_dataclass(value):
        return False
    items = dataclasses.fields(value)
    return any(item.metadata["made"] or _has_made(getattr(value, item.name)) for item in items)


def unknown_key(name: str, known: list[str]) -> str:
    """Return what to say of a key that does not exist: the nearest that does, or all of them."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    if near:
        return f"unknown key; did you mean {near[0]}?"
    return f"unknown key; known are {', '.join(sorted(known))}"


def plain(value: Any) -> Any:
    """Return a dataclass as plain data that JSON and msgpack take; tuples become lists."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {item.name: plain(getattr(value, item.name)) for item in dataclasses.fields(value)}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, Mapping):
        return {str(name): plain(item) for name, item in value.items()}
    return value
