"""
What all faces share: the lab they speak of, arguments checked, errors in Salt's words.
"""

from __future__ import annotations

import contextlib
import difflib
import re
import threading
from collections.abc import Iterator
from collections.abc import Mapping
from typing import Any

import _qemulab_host_lock as lock
import _qemulab_pillar_kinds as kinds
from _qemulab_host_seam import HostError
from _qemulab_pillar_keys import DEFAULT_LAB
from _qemulab_pillar_kinds import Fault
from _qemulab_pillar_kinds import Kind
from _qemulab_pillar_kinds import Notes
from _qemulab_pillar_kinds import SpecError
from _qemulab_pillar_schema import attempt
from _qemulab_pillar_schema import list_of
from _qemulab_run_site import Site
from _qemulab_vm_qmp import QmpError
from salt.exceptions import CommandExecutionError


def virtual(grains: Mapping[str, Any], name: str) -> str | tuple[bool, str]:
    """Return what a face's ``__virtual__`` does: its name, or why it is not loaded on this host."""
    if grains["kernel"] != "Linux":
        return False, "qemulab needs Linux"
    return name


def lab_name(pillar: Mapping[str, Any], lab: str | None) -> Any:
    """Return the lab that is meant, unchecked: the one named, the pillar's, or the default."""
    if lab is not None:
        return lab
    declared = pillar.get("lab")
    name = declared.get("name") if isinstance(declared, Mapping) else None
    return DEFAULT_LAB if name is None else name


def near_key(pillar: Mapping[str, Any]) -> list[str]:
    """Return a sentence where a pillar without ``lab`` has a key that looks like it."""
    words = [] if "lab" in pillar else [key for key in pillar if isinstance(key, str)]
    near = difflib.get_close_matches("lab", words, n=1, cutoff=0.65)
    return [f"the pillar has the key {near[0]} and no lab: is lab meant?"] if near else []


def need(kind: Kind, value: Any, path: str) -> Any:
    """
    Return an argument in its canonical form. Raises SpecError where it is none of its kind.

    path
        Where the pillar has it, or the argument's name, for the fault.
    """
    notes = Notes()
    found = attempt(kind, value, path, notes)
    if notes.faults:
        raise SpecError(notes.faults)
    return found


def need_name(value: Any, path: str) -> None:
    """Raise SpecError unless a value is a name: it becomes part of paths that are removed too."""
    if isinstance(value, bool | int | float):
        # A shell takes the quotes away that YAML would have needed.
        quoted = f"quote what is a name for YAML as well as for the shell: \"'{value}'\""
        raise SpecError([Fault(path, f"{kinds.show(value)} is not text; {quoted}")])
    need(kinds.NAME, value, path)


def need_names(values: Any, path: str) -> None:
    """Raise SpecError unless a value is a list of names."""
    need(list_of(kinds.NAME), values, path)


def need_lab(site: Site, lab: str | None) -> None:
    """Raise SpecError where a lab is named that this host has not."""
    if lab is not None and not site.layout.lab_state.is_dir():
        known = ", ".join(site.other_labs()) or "none"
        raise SpecError([Fault("lab", f"this host has no lab {lab}; it has {known}")])


def networks_meant(site: Site, network: Any) -> list[str]:
    """Return the network that is named, all where none is. Raises SpecError for an unknown one."""
    known = site.store.networks()
    if network is None:
        return known
    need_name(network, "network")
    if network not in known:
        problem = (
            f"the lab {site.lab} has no network {network}; it has {', '.join(known) or 'none'}"
        )
        raise SpecError([Fault("network", problem)])
    return [str(network)]


def need_root_path(root: str) -> None:
    """Raise SpecError for a ``qemulab.root`` that some program of a lab could not be told."""
    path = "qemulab.root"
    if not root.startswith("/") or ".." in root.split("/"):
        raise SpecError([Fault(path, f"{kinds.show(root)} is not an absolute path without ..")])
    # supervisord: a comment begins at ; or # behind a space, and [ ? * are patterns.
    if re.search(rf"[{kinds.UNWRITTEN}*?\[\]]|\s[;#]|\s$", root):
        problem = f"{kinds.show(root)} has a control character, one of * ? [ ], or ; or # after "
        raise SpecError([Fault(path, f"{problem}a space: none of them can be in it")])


def site(
    opts: Mapping[str, Any], pillar: Mapping[str, Any], context: dict[str, Any], lab: str | None
) -> Site:
    """
    Return a lab on this host: one and the same for all functions of a run, and for no other run.
    Whoever runs a dry run and a real one with the same context has two: what the dry run has said
    that it would do is not done.

    opts, pillar, context
        Salt's dunders.

    lab
        Name of the lab; default the pillar's.
    """
    name = lab_name(pillar, lab)
    need_name(name, "lab:name")
    root = str(opts.get("qemulab.root") or "/")
    need_root_path(root)
    timeout = opts.get("qemulab.lock_timeout", lock.TIMEOUT)
    if isinstance(timeout, bool) or not isinstance(timeout, int | float) or timeout < 0:
        raise HostError(f"the minion option qemulab.lock_timeout: {timeout!r} is no seconds")
    # With multiprocessing: False, Salt's context is the minion's, and each job a thread: what is
    # kept there is the thread's own, and goes with it.
    sites = context.setdefault("qemulab", threading.local()).__dict__
    key = root, name, bool(opts.get("test"))
    if key not in sites:
        sites[key] = Site(name, root, timeout)
    found: Site = sites[key]
    return found


@contextlib.contextmanager
def errors() -> Iterator[None]:
    """
    Turn errors of the layers below into Salt's: a wrong declaration, or what the host refuses.

    Salt has another for wrong arguments, but salt-call then prints the function's documentation.
    """
    try:
        yield
    except (SpecError, HostError, QmpError) as err:
        raise CommandExecutionError(str(err)) from err
    except OSError as err:
        where = f"{err.filename}: " if err.filename else ""
        raise CommandExecutionError(f"{where}{err.strerror or err}") from err
