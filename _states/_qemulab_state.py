"""
The one shape that all states of qemulab have: plan, say it or have it done, report it.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Mapping
from typing import Any

import salt.utils.args
from salt.exceptions import CommandExecutionError
from salt.exceptions import SaltInvocationError
from salt.state import STATE_INTERNAL_KEYWORDS


def declaration(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a state was given as its thing's declaration, without what is Salt's own."""
    own = salt.utils.args.clean_kwargs(**kwargs)
    return {key: value for key, value in own.items() if key not in STATE_INTERNAL_KEYWORDS}


def conclude(
    name: str, test: bool, act: Callable[[], dict[str, Any]], already: str, would: str, has: str
) -> dict[str, Any]:
    """
    Have something done, or said what would be, and return it as a state does.

    name
        The state's name.

    test
        Whether this is a dry run.

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
        return {**ret, "result": False, "comment": refusal(name, outcome["refused"])}
    if outcome["changes"]:
        ret["changes"] = outcome["changes"]
        ret["result"] = None if test else True
        ret["comment"] = would if test else has
    warnings = list(outcome.get("warnings", ())) + outcome["notes"]
    if outcome["pending"]:
        ret["pending"] = outcome["pending"]
        warnings.append(waiting(outcome["pending"], outcome["machines"]))
    if warnings:
        ret["warnings"] = warnings
    if outcome.get("ssh"):
        ret["comment"] = f"{ret['comment']}; {outcome['ssh']}"
    if outcome.get("how") in ("quit", "kill"):
        ret["comment"] = f"{ret['comment']}; it ignored its power button ({outcome['how']})"
    return ret


def values(changes: Mapping[str, Mapping[str, Any]]) -> str:
    """Return changes in one line: each key with its old and its new value."""
    return ", ".join(f"{key} {item['old']} -> {item['new']}" for key, item in changes.items())


def refusal(name: str, refused: Mapping[str, Mapping[str, Any]]) -> str:
    """Return why nothing was done: a disk's data would be lost."""
    return (
        f"{name} is left as it is, since data on a disk would be lost by {values(refused)}; "
        "remove the disk yourself first"
    )


def waiting(pending: Mapping[str, Mapping[str, Any]], machines: list[str]) -> str:
    """Return what waits for a restart, and how it is had."""
    which = f" of {', '.join(machines)}" if machines else ""
    how = "qemulab.vm_restart, or on_change: restart"
    if machines:
        how = "on_change: restart"
    return f"these wait for a restart{which} ({how}): {values(pending)}"
