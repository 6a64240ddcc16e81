"""
What a plan is made of: changes, each with what it costs. Pure.

The dry run prints a plan and the apply carries the same one out, so that the two cannot disagree.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from typing import NamedTuple

CREATE = "create"
LIVE = "live"
BOOT = "boot"
RESTART = "restart"
RECREATE = "recreate"
STOP = "stop"
DESTROY = "destroy"

EFFECTS = {
    CREATE: "nothing existed",
    LIVE: "done on the running machine or network, nobody notices",
    BOOT: "done at once, and it shows when the host boots next; nothing that runs is touched",
    RESTART: "the machine must be powered off and on",
    RECREATE: "data on a disk would be lost: always refused",
    STOP: "a machine is powered off, or a network taken down",
    DESTROY: "data is removed",
}
"""Every effect, with what it means to a user."""


MOVES = "a running guest moves when it next renews its lease"


Path = tuple[str, ...]
"""Where a value stands in a declaration: ``("disks", "hda", "size")``."""


class Change(NamedTuple):
    """
    One thing that is not as declared.

    path
        Where it stands in the declaration; of what is no key of the pillar, its name.

    takes
        What takes it up where something runs (``_qemulab_pillar_keys`` has the words); empty for
        what is no key of the pillar.
    """

    path: Path
    old: Any
    new: Any
    effect: str
    takes: str = ""

    @property
    def key(self) -> str:
        """Return its path as people read it; nothing decides by that."""
        return ":".join(self.path)

    def words(self) -> dict[str, Any]:
        """Return it as a state's ``changes`` have it."""
        return {"old": self.old, "new": self.new, "effect": self.effect}


def fact(name: str, old: Any, new: Any, effect: str) -> Change:
    """Return a change of what is no key of the pillar: a process, an image, a link."""
    return Change((name,), old, new, effect)


class Plan(NamedTuple):
    """
    What one state has to do.

    changes
        What the apply does.

    pending
        What waits: for a restart that nobody asked for, or (with another effect than ``restart``)
        for the network's own change.

    refused
        What is never done, because data would be lost.

    notes
        Sentences for the user.

    machines
        Machines that have to be restarted for it, beside the thing itself.
    """

    changes: tuple[Change, ...] = ()
    pending: tuple[Change, ...] = ()
    refused: tuple[Change, ...] = ()
    notes: tuple[str, ...] = ()
    machines: tuple[str, ...] = ()

    def waiting(self) -> set[Path]:
        """Return what stays as it is: until a restart, or for good."""
        return {change.path for change in self.pending + self.refused}

    def touches(self, *path: str) -> bool:
        """Return whether the apply changes what stands at a path, or below it."""
        return any(change.path[: len(path)] == path for change in self.changes)

    def below(self, *path: str) -> list[str]:
        """Return the names of what the apply changes below a path, as of machines below ``vms``."""
        here = [change.path for change in self.changes if change.path[: len(path)] == path]
        return list(dict.fromkeys(each[len(path)] for each in here if len(each) > len(path)))

    def takes(self, *takers: str) -> bool:
        """Return whether any of these takes a change up."""
        return any(change.takes in takers for change in self.changes)

    def has(self, effect: str) -> bool:
        """Return whether any change has this effect."""
        return any(change.effect == effect for change in self.changes)


def words(changes: Iterable[Change]) -> dict[str, dict[str, Any]]:
    """Return changes as Salt shows them: by key, each with old value, new value and effect."""
    return {change.key: change.words() for change in changes}


def at_rest(change: Change) -> Change:
    """Return the change as it is on a machine that is off: a restart costs nothing there."""
    if change.effect == RESTART:
        return change._replace(effect=LIVE)
    return change
