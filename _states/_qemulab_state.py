"""
The one shape that all states of qemulab have: plan, say it or have it done, report it.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
from typing import Any
from typing import NamedTuple

import salt.utils.args
from salt.exceptions import CommandExecutionError
from salt.exceptions import SaltInvocationError
from salt.state import STATE_INTERNAL_KEYWORDS


def declaration(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a state was given as its thing's declaration, without what is Salt's own."""
    own = salt.utils.args.clean_kwargs(**kwargs)
    return {key: value for key, value in own.items() if key not in STATE_INTERNAL_KEYWORDS}


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
        warnings += waiting(outcome["pending"], outcome["machines"])
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


def waiting(pending: Mapping[str, Mapping[str, Any]], machines: list[str]) -> list[str]:
    """Return what waits, and how it is had: by a restart, or with the address of its network."""
    restarts = {key: item for key, item in pending.items() if item["effect"] == "restart"}
    others = {key: item for key, item in pending.items() if key not in restarts}
    found = []
    if restarts:
        which, how = "", "qemulab.vm_restart, or on_change: restart"
        if machines:
            which = f" of {', '.join(machines)}"
            how = "on_change: restart of the network, or stop them and apply again"
        found.append(f"these wait for a restart{which} ({how}): {values(restarts)}")
    if others:
        found.append(f"these wait for the new address of their network: {values(others)}")
    return found
