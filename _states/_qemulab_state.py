"""
The one shape that all states of qemulab have: plan, say it or have it done, report it.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Container
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any
from typing import NamedTuple

import salt.utils.args
from salt.exceptions import CommandExecutionError
from salt.exceptions import SaltInvocationError
from salt.state import STATE_INTERNAL_KEYWORDS
from salt.utils.state import gen_tag


def declaration(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a state was given as its thing's declaration, without what is Salt's own."""
    own = salt.utils.args.clean_kwargs(**kwargs)
    return {key: value for key, value in own.items() if key not in STATE_INTERNAL_KEYWORDS}


PLAIN = {"fun", "order", "state", "require", "require_in"}
"""Salt's own keys that a state may have and still start with its neighbours: the others say that
it runs under a condition, or in a way of its own."""


def following(dunders: Mapping[str, Any], functions: Container[str]) -> list[Mapping[str, Any]]:
    """
    Return the row of the state that runs.

    dunders
        The globals of its module, which Salt has put its own into.
    """
    if dunders["__opts__"].get("failhard"):
        return []  # one that fails would be the last to run
    low, lowstate, running = (
        dunders.get(f"__{key}__", {}) for key in ("low", "lowstate", "running")
    )
    return row(low, lowstate, running, functions)


def row(
    low: Mapping[str, Any],
    lowstate: Iterable[Mapping[str, Any]],
    running: Mapping[str, Any],
    functions: Container[str],
) -> list[Mapping[str, Any]]:
    """
    Return the states that Salt would run next anyway, so that they may be begun with this one.

    low, lowstate, running
        Salt's ``__low__``, ``__lowstate__`` and ``__running__``: this state, all of the run in
        their order, and what those before it came to.

    functions
        Functions of qemulab that such a state may be.

    They follow at once, are of the same lab, have no condition of their own, and require nothing
    but what has succeeded, and what is in the row and no machine: whether a machine runs shows
    only when its own state has waited for it.
    """
    found: list[Mapping[str, Any]] = []
    chunks = list(lowstate)
    here = next((index for index, each in enumerate(chunks) if same(each, low)), None)
    if here is None or conditional(low):
        return found
    if not all(gen_tag(each) in running for each in chunks[:here]):
        return found  # one state is run by itself, as state.sls_id does
    for chunk in chunks[here + 1 :]:
        ours = chunk.get("state") == low.get("state") and chunk.get("lab") == low.get("lab")
        if not ours or chunk.get("fun") not in functions or conditional(chunk):
            break
        begun, needs = [low, *found], chunk.get("require", ())
        if gen_tag(chunk) in running or not all(met(n, chunks, running, begun) for n in needs):
            break
        found.append(chunk)
    return found


def requires(chunk: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Return whether a state names another one in its ``require``."""
    return any(is_named(other, *named(item)) for item in chunk.get("require", ()))


def named(item: Any) -> tuple[str | None, str]:
    """Return what an item of ``require`` names: a kind, or ``None`` for any, and a name."""
    if isinstance(item, Mapping):
        ((kind, name),) = item.items()
        return kind, name
    return None, item


def met(
    item: Any,
    chunks: Iterable[Mapping[str, Any]],
    running: Mapping[str, Any],
    begun: Sequence[Mapping[str, Any]],
) -> bool:
    """Return whether all that an item of ``require`` names has succeeded, or is begun."""
    wanted = [chunk for chunk in chunks if is_named(chunk, *named(item))]
    return bool(wanted) and all(
        running.get(gen_tag(chunk), {}).get("result") is True
        or (not chunk["fun"].startswith("vm_") and any(same(chunk, other) for other in begun))
        for chunk in wanted
    )


def is_named(chunk: Mapping[str, Any], kind: str | None, name: str) -> bool:
    """Return whether a requisite names a state. Source: salt.state, "require" by SLS, ID, name."""
    if kind == "sls":
        return name == chunk.get("__sls__") or name in chunk.get("__sls_included_from__", ())
    return kind in (None, "id", chunk.get("state")) and name in (chunk["__id__"], chunk["name"])


def same(chunk: Mapping[str, Any], low: Mapping[str, Any]) -> bool:
    """Return whether two chunks are the same state of a run."""
    return all(chunk.get(key) == low.get(key) for key in ("state", "__id__", "name", "fun"))


def conditional(chunk: Mapping[str, Any]) -> bool:
    """Return whether a state runs under a condition, or in a way, of its own."""
    special = {key for key in STATE_INTERNAL_KEYWORDS if not key.startswith("__")} - PLAIN
    return bool(chunk.get("__prereq__")) or not special.isdisjoint(chunk)


def thawed(value: Any) -> Any:
    """Return a copy of a value that Salt has made immutable, and that compares."""
    if isinstance(value, Mapping):
        return {key: thawed(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [thawed(item) for item in value]
    return value


def declarations(chunks: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what states declare, by name."""
    found = {}
    for chunk in chunks:
        own = {key: value for key, value in chunk.items() if key not in ("name", "lab")}
        found[chunk["name"]] = declaration(thawed(own))
    return found


class Run(NamedTuple):
    """
    What a state runs with.

    salt, opts
        Salt's dunders.

    thing
        What its events are about: a noun, and the name where there are several (``vm:master``).
    """

    salt: Mapping[str, Callable[..., Any]]
    opts: Mapping[str, Any]
    thing: str

    @property
    def test(self) -> bool:
        """Return whether this is a dry run."""
        return bool(self.opts["test"])

    def tell(self, name: str, outcome: Mapping[str, Any]) -> None:
        """
        Send an event for each effect that a state's changes have had; each change is in one.

        Without a master there is nobody to tell: Salt would warn at each event.
        """
        if self.opts.get("file_client") == "local":
            return
        changes = outcome["changes"]
        for effect in sorted({change["effect"] for change in changes.values()}):
            tag = f"salt/qemulab/{outcome['lab']}/{self.thing}/{effect}"
            mine = {key: item for key, item in changes.items() if item["effect"] == effect}
            self.salt["event.send"](tag, {"name": name, "lab": outcome["lab"], "changes": mine})


def conclude(
    run: Run, name: str, act: Callable[[], dict[str, Any]], already: str, would: str, has: str
) -> dict[str, Any]:
    """
    Have something done, or said what would be, and return it as a state does.

    run
        What it runs with.

    name
        The state's name.

    act
        Calls the execution function; returns its outcome.

    already, would, has
        The comment in the three tenses.
    """
    ret: dict[str, Any] = {"name": name, "result": True, "changes": {}, "comment": already}
    try:
        outcome = act()
    except (CommandExecutionError, SaltInvocationError) as err:
        return {**ret, "result": False, "comment": str(err)}
    if outcome["refused"]:
        return {**ret, "result": False, "comment": refusal(name, outcome)}
    if outcome["changes"]:
        ret["changes"] = outcome["changes"]
        ret["result"] = None if run.test else True
        ret["comment"] = would if run.test else has
        if not run.test:
            run.tell(name, outcome)
    warnings = list(outcome.get("warnings", ())) + outcome["notes"]
    if outcome["pending"]:
        ret["pending"] = outcome["pending"]
        warnings.append(waiting(outcome["pending"], outcome["machines"]))
    if outcome.get("ssh"):
        ret["comment"] = f"{ret['comment']}; {outcome['ssh']}"
    if outcome.get("how") in ("quit", "kill"):
        ret["comment"] = f"{ret['comment']}; it ignored its power button ({outcome['how']})"
    warn(ret, warnings)
    return ret


SEVERAL = "there is more than one warning: the comment has them\n"


def warn(ret: dict[str, Any], texts: Iterable[str]) -> None:
    """
    Add warnings to what a state returns: one as it is, more as lines of the comment.

    Salt's full output turns every line break in warnings into a blank, so that they run together;
    its terse and mixed ones print the state's name right behind the last.
    """
    before = ret.pop("warnings", [])
    lines = [text.rstrip("\n") for text in before if text != SEVERAL] + list(texts)
    if SEVERAL not in before and len(lines) == 1 and "\n" not in lines[0]:
        ret["warnings"] = [f"{lines[0]}\n"]
    elif lines or before:
        ret["comment"] = "\n".join([ret["comment"], *lines])
        ret["warnings"] = [SEVERAL]


def values(changes: Mapping[str, Mapping[str, Any]]) -> str:
    """Return changes in one line: each key with its old and its new value."""
    return ", ".join(f"{key} {item['old']} -> {item['new']}" for key, item in changes.items())


def refusal(name: str, outcome: Mapping[str, Any]) -> str:
    """Return why nothing was done: a disk's data would be lost."""
    files = ", ".join(outcome.get("images", ())) or "the disk"
    return (
        f"{name} is left as it is, since data on a disk would be lost by "
        f"{values(outcome['refused'])}; remove {files} yourself first"
    )


def waiting(pending: Mapping[str, Mapping[str, Any]], machines: list[str]) -> str:
    """Return what waits for a restart, and how it is had."""
    which = f" of {', '.join(machines)}" if machines else ""
    how = "qemulab.vm_restart, or on_change: restart"
    if machines:
        how = "on_change: restart"
    return f"these wait for a restart{which} ({how}): {values(pending)}"
