"""
The lab as a whole: made ready, cleared of what is no longer declared, stopped, started, removed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import _qemulab_apply_network as networks
import _qemulab_apply_power as apply_power
import _qemulab_apply_together as together
import _qemulab_apply_vm as machines
import _qemulab_host_generated as written
import _qemulab_host_owned as own
import _qemulab_host_seam as host
import _qemulab_lan_orphans as lan_left
import _qemulab_pillar_schema as schema
import _qemulab_plan_lab as plan_lab
import _qemulab_vm_access as access
import _qemulab_vm_lost_images as held
import _qemulab_vm_orphans as vm_left
import _qemulab_vm_power as power
import _qemulab_vm_status as vm_status
from _qemulab_apply_converge import Outcome
from _qemulab_apply_converge import converge
from _qemulab_host_seam import HostError
from _qemulab_plan_changes import Plan
from _qemulab_plan_lab import LabFacts
from _qemulab_plan_network import plan_network
from _qemulab_plan_vm import plan_vm_stopped
from _qemulab_run_site import Site


def find_facts(site: Site) -> LabFacts:
    """Return what is of the lab as a whole."""
    authorized_keys = site.store.authorized_keys()
    known = authorized_keys is not None
    return LabFacts(
        user=host.has_user(),
        ssh_key=site.layout.ssh_key.exists(),
        known=known,
        authorized_keys=authorized_keys or (),
        networks=tuple(site.store.networks()),
        vms={name: site.status("vm", name).alive for name in site.store.vms()},
        remains=not known and site.supervisor.remains(),
        logs=own.has_logs(site.layout),
        files=edited_files(site) if known else {},
    )


def edited_files(site: Site) -> dict[str, str]:
    """
    Return generated files of the lab and the host that somebody else has been at, by name.

    A template of systemd's that is gone is missed by each network and machine that needs it.
    """
    templates = written.names(site.layout.host_written)
    edited = {name: how for name, how in templates.items() if how == written.EDITED}
    return written.names(site.layout.lab_written) | edited


# Ready for its first network


def ensure(site: Site, keys: tuple[str, ...], test: bool = False) -> Outcome:
    """
    Make what a lab needs before its first network: system user, SSH key, keys that may log in.

    keys
        Public SSH keys.

    test
        Only say what would be done. Default ``False``.

    Returns what ``outcome`` does.
    """

    def look() -> tuple[Plan, LabFacts]:
        facts = find_facts(site)
        return plan_lab.plan_lab(facts, host.USER, keys), facts

    def act(plan: Plan, _facts: LabFacts) -> None:
        site.supervisor.open()
        makers = {
            "user": host.make_user,
            "ssh_key": lambda: access.make_key(site.layout),
        }
        with ThreadPoolExecutor() as pool:  # each waits for a program
            made = [pool.submit(make) for key, make in makers.items() if plan.touches(key)]
        for each in made:
            each.result()
        site.store.keep_lab(keys)
        access.write_authorized_keys(site)
        access.write_known_hosts(site)
        site.supervisor.mend()

    return converge(site, lambda: site.lock("lab", "present"), look, act, test)


# What is no longer declared


def prune(
    site: Site, vms: Collection[str], declared: Collection[str], mode: str, test: bool = False
) -> Outcome:
    """
    Deal with what the lab has and the pillar no longer declares. No disk is ever removed.

    vms, declared
        Names of the machines and of the networks that are declared.

    mode
        ``report`` only names what is left; ``stop`` powers off and takes down.

    test
        Only say what would be done. Default ``False``.

    Returns what ``outcome`` does.
    """
    told: list[str] = []

    def look() -> tuple[Plan, None]:
        facts = find_facts(site)
        runs = {name: vm_status.runs(site, name) for name in facts.vms if name not in vms}
        facts = facts._replace(vms={**facts.vms, **runs})
        plan = plan_lab.plan_prune(facts, vms, declared, mode)
        off = plan.below("vms")
        if test:
            site.run.leaving.update(off)
        gone = [says for name in off for says in machines.says_lost(site, name)]
        return plan._replace(notes=(*plan.notes, *gone)), None

    def act(plan: Plan, _seen: None) -> None:
        stop_all(site, plan.below("vms"))
        for name in plan.below("networks"):
            told.extend(of_one(name, networks.ensure_absent(site, name)))

    found = converge(site, None, look, act, test)
    return {**found, "notes": found["notes"] + told}


def of_one(name: str, found: Outcome) -> list[str]:
    """Return in words what one of several things leaves to be said: its notes, and what waits."""
    waits = [f"{key} waits: {it['old']} -> {it['new']}" for key, it in found["pending"].items()]
    return [f"{name}: {text}" for text in (*found["notes"], *waits)]


def stop_all(site: Site, names: Collection[str]) -> dict[str, str]:
    """Power machines off together; returns for each how, in ``power.stop``'s words."""
    off = plan_vm_stopped(True)
    together.press_together(site, names, lambda _name: off)
    return {name: apply_power.stop(site, name)[0] for name in names}


# Off and on


def ensure_stopped(site: Site, test: bool = False) -> Outcome:
    """
    Power all machines off, together.

    test
        Only say what would be done. Default ``False``.

    Returns what ``outcome`` does, and ``how`` with one of ``power.stop``'s words for each machine.
    """
    site.answers.forget()
    how: dict[str, str] = {}

    def look() -> tuple[Plan, None]:
        # Of some there may be nothing left but what runs.
        found = vm_left.machines(site)
        runs = {name: vm_status.runs(site, name) for name in {*site.store.vms(), *found}}
        gone = [says for name in runs if runs[name] for says in machines.says_lost(site, name)]
        alone = [vm_left.says_alone(name, pid) for name, pid in found.items() if not runs[name]]
        plan = plan_lab.plan_lab_stopped(dict(sorted(runs.items())))
        return plan._replace(notes=(*gone, *alone)), None

    def act(plan: Plan, _seen: None) -> None:
        how.update(stop_all(site, plan.below("vms")))

    return {**converge(site, None, look, act, test), "how": how}


def ensure_started(site: Site, test: bool = False) -> Outcome:
    """
    Start all networks and machines as they were last applied.

    test
        Only say what would be done. Default ``False``.

    Returns what ``outcome`` does, and ``ssh`` with the command that logs in to each machine.
    """
    site.answers.forget()
    ssh: dict[str, str | None] = {}
    told: list[str] = []

    def look() -> tuple[Plan, None]:
        down = [name for name in site.store.networks() if is_down(site, name)]
        vms = {name: vm_status.find_status(site, name)[0] for name in site.store.vms()}
        plan = plan_lab.plan_lab_started(down, vms)
        off = [name for name in vms if vms[name].is_off]
        unlike = [f"{name}: {text}" for name in off for text in says_unlike(site, name)]
        return plan._replace(notes=(*plan.notes, *unlike)), None

    def act(plan: Plan, _seen: None) -> None:
        for name in plan.below("networks"):
            told.extend(of_one(name, networks.ensure(site, name, network_as_applied(site, name))))
        names = plan.below("vms")
        defined = {name: schema.compact(site.store.vm(name)[0]) for name in names}
        for number, name in enumerate(names):
            row = {other: defined[other] for other in names[number + 1 :]}
            made = machines.ensure(site, name, defined[name], "running", row=row)
            ssh[name] = made["ssh"] or None
            told.extend(of_one(name, made))

    found = converge(site, None, look, act, test)
    return {**found, "notes": found["notes"] + told, "ssh": ssh}


def is_down(site: Site, name: str) -> bool:
    """Return whether a network lacks something to be as it was applied."""
    defined = site.store.network(name)
    if defined is None:
        return False
    facts = networks.find_facts(site, name)._replace(waiting=())
    return bool(plan_network(facts, defined).changes)


def network_as_applied(site: Site, name: str) -> Any:
    """Return a network as it was last applied, as its state takes it."""
    keys = schema.compact(site.store.network(name))
    keys.pop("reservations", None)
    return keys


def says_unlike(site: Site, name: str) -> list[str]:
    """Return in words what a machine that is off will not find as it was."""
    defined, _ = site.store.vm(name)
    # Disks are for root to see, and what keeps a machine from starting its own start will tell.
    with contextlib.suppress(HostError):
        if host.is_root() and defined is not None:
            return power.unlike_before(site, name, defined)
    return []


def restart(site: Site) -> tuple[Outcome, Outcome]:
    """
    Power all machines off and on, as they were last applied.

    Returns what ``ensure_stopped`` and ``ensure_started`` do. Raises HostError, and stops none,
    where a machine alone holds a disk whose file is gone, or would not come back.
    """
    site.answers.forget()
    for name in site.store.vms():
        held.need_none(name, vm_status.find_lost(site, name))
        apply_power.need_startable(site, name, apply_power.need_defined(site, name))
    return ensure_stopped(site), ensure_started(site)


# Away


def ensure_absent(site: Site, purge: bool, test: bool = False) -> Outcome:
    """
    Take the lab itself away when its machines and networks are gone.

    purge
        Also remove its SSH key and its logs.

    test
        Only say what would be done. Default ``False``.

    Returns what ``outcome`` does. Raises HostError where something is left of machines or networks.
    """

    def look() -> tuple[Plan, None]:
        return plan_lab.plan_lab_absent(find_facts(site), purge), None

    def act(_plan: Plan, _seen: None) -> None:
        need_none(site, purge)
        site.supervisor.close()
        remove_files(site, purge)

    return converge(site, lambda: site.lock("lab", "present"), look, act, test)


def find_made(site: Site) -> dict[str, list[str]]:
    """Return the networks and machines of which a file or a process is left."""
    return {
        "networks": sorted({*site.store.networks(), *lan_left.networks(site)}),
        "vms": sorted({*site.store.vm_directories(), *vm_left.machines(site)}),
    }


def need_none(site: Site, purge: bool) -> None:
    """Raise HostError where something of a lab is still there that is to be gone before it."""
    left = site.store.networks() + (site.store.vm_directories() if purge else site.store.vms())
    if left:
        raise HostError(f"the lab {site.lab} still has {', '.join(left)}")
    running = {**vm_left.machines(site), **lan_left.networks(site)}
    if running:
        shown = ", ".join(f"{name} (process {pid})" for name, pid in sorted(running.items()))
        hint = "salt-call state.apply lab.clean; what it does not end, end yourself"
        raise HostError(f"of the lab {site.lab} there still runs {shown}", hint=hint)


def remove_files(site: Site, purge: bool) -> None:
    """Remove a lab's own files; with ``purge`` all of them. What labs share stays."""
    layout = site.layout
    host.remove(layout.lab_file)
    host.remove(layout.lab_written)
    host.remove(layout.lab_runtime)
    host.remove(layout.templates)
    if purge:
        own.remove_lab(layout)
    for directory in (layout.runtime, layout.logs, layout.state):
        host.remove_empty(directory)
