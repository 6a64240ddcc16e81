"""
Labs of QEMU machines: the machines.
"""

import re
import shlex

import _qemulab_access as access
import _qemulab_apply_power as apply_power
import _qemulab_disks as disks
import _qemulab_face as face
import _qemulab_host as host
import _qemulab_host_own as own
import _qemulab_host_ports as host_ports
import _qemulab_kinds as kinds
import _qemulab_launch as launch
import _qemulab_look as looks
import _qemulab_plan_vm as planner
import _qemulab_power as powers
import _qemulab_schema as schema
import _qemulab_spec as spec
import _qemulab_vm as machines
import _qemulab_vm_held as held
import _qemulab_vm_media as media
from _qemulab_plan_named import naming
from _qemulab_plan_status import Status
from _qemulab_schema import mapping_of

__virtualname__ = "qemulab"

ROW = mapping_of(kinds.NAME, kinds.ANYTHING)
"""Machines of a row, each with what a call of its own is to do."""


def __virtual__():
    if __grains__["kernel"] != "Linux":
        return False, "qemulab needs Linux"
    return __virtualname__


def _site(lab=None):
    return face.site(__opts__, __pillar__, __context__, lab)


def _press(site, name, others, plan, test):
    # Who is pressed already has had the others of its row pressed with it.
    if host.is_root() and not test and name not in site.run.pressed:
        machines.press_together(site, [each for each in others or () if each != name], plan)


def _way_off(site, name, test, look):
    """Return the plan of a machine that may be on its way off."""
    return site.run.pressed[name].plan if name in site.run.pressed and not test else look()


def _started(site, name, said):
    """Return what a start says of a machine."""
    ssh = access.ssh_command(site, name, site.store.vm(name)[0]) or None
    warnings = {"warnings": said} if said else {}
    return {"status": Status.RUNNING.value, "ssh": ssh, **warnings}


def vm_list(lab=None):
    """
    Return the lab's machines, each with its status.

    lab
        Name of the lab. Default: the pillar's. Raises CommandExecutionError where this host has
        none of that name.

    CLI Example:

    .. code-block:: bash

        salt-call qemulab.vm_list
    """
    with face.errors():
        site = _site(lab)
        face.need_lab(site, lab)
        return {name: looks.look(site, name)[0].value for name in site.store.vms()}


def vm_info(name, lab=None):
    """
    Return what a machine is declared as and how it is, ``None`` where there is none.

    name
        Name of the machine.

    lab
        Name of the lab. Default: the pillar's.

    ``status`` is ``stopped``, ``failed``, ``starting``, ``unresponsive`` (it does not answer),
    ``unmanaged`` or ``unknown`` (it runs, but is not provably ours), or what QEMU says:
    ``running``, ``paused``, ``io-error`` and others.

    ``qmp`` is the socket that each command has to itself, qemulab's as well; ``watch`` is another
    one for whoever stays, from the machine's next start on where an older release has started it.

    CLI Example:

    .. code-block:: bash

        salt-call qemulab.vm_info master
    """
    with face.errors():
        site = _site(lab)
        face.need_name(name, "name")
        defined, started = site.store.vm(name)
        if defined is None:
            return None
        status, pid = looks.look(site, name)
        layout = site.layout
        return {
            "name": name,
            "lab": site.lab,
            "uuid": spec.vm_uuid(site.lab, name),
            "status": status.value,
            "running": status is Status.RUNNING,
            "pid": pid or None,
            "definition": schema.plain(defined),
            "started": started and schema.plain(started),
            "disks": {
                disk: {
                    "path": str(layout.disk(name, disk)),
                    "size": kinds.size_text(size) if size else None,
                }
                for disk, size in disks.disk_sizes(site, name, strict=False).items()
            },
            "ssh": access.ssh_command(site, name, defined) or None,
            "console": {"log": str(layout.console(name)), "socket": str(layout.serial(name))},
            "qmp": str(layout.qmp(name)),
            "watch": str(layout.watch(name)),
            "vnc": launch.vnc_address(site, name, defined),
        }


def vm_ensure(name, declaration=None, power="present", lab=None, test=False, together=None):
    """
    Make a machine as declared.

    name
        Name of the machine.

    declaration
        Its keys, as under ``lab:vms:NAME`` in the pillar; default all defaults.

    power
        ``present`` (default): defined, disks made, and left off or on as it is; ``running``.

    lab
        Name of the lab. Default: the pillar's.

    test
        Only say what would be done. Default ``False``.

    together
        Other machines that may be started as well, as name and declaration; each is then waited
        for, and reported, by a call of its own. Default: none.

    Returns ``changes``, ``pending`` and ``refused`` by key, each with old, new and effect;
    ``notes``; ``machines``; ``ssh``, the command that logs in; and ``images``, the files of disks
    that a refused change would cost.

    CLI Example:

    .. code-block:: bash

        salt-call qemulab.vm_ensure master '{"memory": 4096}' power=running test=True
    """
    with face.errors():
        site = _site(lab)
        face.need_name(name, "name")
        face.need(kinds.choice("present", "running"), power, "power")
        face.need(ROW, together or {}, "together")
        ports = host_ports.ports(site)
        declared = spec.vm_from(name, declaration, site.lab, site.store.all_networks(), ports)
        if test:
            site.run.promised[name] = declared
        begun, lost = ("vm", name), []
        if together and begun not in site.run.early:
            if not test and host.is_root():
                known = ports._replace(stored={**ports.stored, name: declared})
                others = spec.readable_vms(together, site.lab, site.store.all_networks(), known)
                machines.begin_together(site, {name: declared, **others})
            if begun not in site.run.early:
                looks.look_at_all(site, [name, *together])

        def look():
            if begun in site.run.early and not test:
                return site.run.early[begun].plan
            facts = looks.facts(site, name)
            if facts.status in (Status.UNKNOWN, Status.UNRESPONSIVE):
                looks.refuse(site, name, facts.status)
            held.need_none(name, looks.lost(site, name) if facts.lost else ())
            plan = planner.plan_vm(facts, declared, power)
            lost[:] = [change.path[1] for change in plan.refused]
            if test and plan.changes and not plan.refused:
                if power == "running":
                    powers.check_host(site, name, declared, facts.started)
                else:
                    media.check(site, name, declared, facts.started)
            return plan

        def act(_plan):
            machines.apply(site, name, declared, power)
            site.answers.forget()

        outcome = face.converge(site, look, act, test, naming(declared, declaration))
        defined, started = site.store.vm(name)
        if not test and not outcome["refused"] and defined not in (None, declared):
            site.store.store_vm(name, declared, started)  # what pends comes with the next start
        paths = [str(site.layout.disk(name, disk)) for disk in lost]
        return {**outcome, "ssh": access.ssh_command(site, name, declared), "images": paths}


def vm_remove(name, purge=False, lab=None, test=False, together=None, known=True):
    """
    Take a machine away: stopped first; its disks stay.

    name
        Name of the machine.

    purge
        Remove its disks, UEFI variables and console log as well. Default ``False``.

    lab
        Name of the lab. Default: the pillar's.

    test
        Only say what would be done. Default ``False``.

    together
        Machines that calls of their own are about to remove, as name and ``purge``: their power
        buttons are pressed at once. Default: none.

    known
        Raise CommandExecutionError where the lab has nothing of such a machine. Default ``True``.

    Returns what ``vm_ensure`` returns.

    CLI Example:

    .. code-block:: bash

        salt-call qemulab.vm_remove master test=True
    """
    with face.errors():
        site = _site(lab)
        face.need_name(name, "name")
        if known and name not in site.store.vm_directories() and not looks.runs(site, name):
            face.defined(site, name)
        how = []

        def look(each, purge):
            left = bool(own.machine(site.layout, each))
            return planner.plan_vm_absent(looks.facts(site, each, strict=False), purge, left)

        row = face.need(ROW, together or {}, "together")
        asked = [each for each, purged in row.items() if not purged]
        _press(site, name, asked, lambda each: look(each, False), test)
        outcome = face.converge(
            site,
            lambda: _way_off(site, name, test, lambda: look(name, purge)),
            lambda _plan: how.append(machines.remove(site, name, purge)),
            test,
        )
        return {**outcome, "how": (how or ["stopped"])[0]}


def vm_power_off(name, lab=None, test=False, together=None):
    """
    Have a machine off: what the state ``vm_stopped`` does.

    name
        Name of the machine.

    lab
        Name of the lab. Default: the pillar's.

    test
        Only say what would be done. Default ``False``.

    together
        Names of machines that calls of their own are about to power off: their power buttons are
        pressed at once. Default: none.

    Returns what ``vm_ensure`` returns; ``how`` is one of ``vm_stop``'s words.

    CLI Example:

    .. code-block:: bash

        salt-call qemulab.vm_power_off master test=True
    """
    with face.errors():
        site = _site(lab)
        face.need_name(name, "name")
        face.need_names(together or [], "together")
        how = []

        def lost(each):
            return tuple(image.says for image in looks.lost(site, each))

        def look():
            status, _ = looks.look(site, name, fresh=True)
            return planner.plan_vm_stopped(not status.is_off, lost(name))

        def act(_plan):
            how.append(__salt__["qemulab.vm_stop"](name, lab=site.lab)["how"])

        def off(each):
            return planner.plan_vm_stopped(True, lost(each))

        _press(site, name, together, off, test)
        outcome = face.converge(site, lambda: _way_off(site, name, test, look), act, test)
        return {**outcome, "how": (how or ["stopped"])[0]}


def vm_start(name, lab=None):
    """
    Start a machine as it was last applied, and wait until it runs.

    One that is paused, or was stopped as the host was full, runs on; one whose guest is dead
    (``internal-error``, ``guest-panicked``) is powered off and on.

    name
        Name of the machine.

    lab
        Name of the lab. Default: the pillar's.

    Returns its status, the command that logs in, and as ``warnings`` what is not as it was: disks
    that were made anew, empty or from their backing images, and UEFI variables of another firmware.

    CLI Example:

    .. code-block:: bash

        salt-call qemulab.vm_start master
    """
    with face.errors():
        face.need_root()
        site = _site(lab)
        face.defined(site, name)
        return _started(site, name, apply_power.start(site, name))


def vm_stop(name, grace=None, lab=None):
    """
    Power a machine off: by the power button, and if that does not help, hard.

    name
        Name of the machine.

    grace
        Seconds that the guest gets to answer the power button. Default: its ``stop_grace``.

    lab
        Name of the lab. Default: the pillar's.

    Returns ``how``: ``acpi`` (the guest did it), ``quit`` (QEMU ended in good order), ``kill``, or
    ``stopped`` where it did not run; as ``warnings`` the lost images that it alone still held.

    CLI Example:

    .. code-block:: bash

        salt-call qemulab.vm_stop master grace=60
    """
    with face.errors():
        face.need_root()
        site = _site(lab)
        face.defined(site, name)
        if grace is not None:
            face.need(kinds.integer(0, 3600, "s"), grace, "grace")
        how, gone = apply_power.stop(site, name, grace)
        return {"how": how, **({"warnings": gone} if gone else {})}


def vm_restart(name, lab=None, lose_data=False):
    """
    Power a machine off and on, as it was last applied: what is pending takes effect.

    name
        Name of the machine.

    lab
        Name of the lab. Default: the pillar's.

    lose_data
        Restart it although the file of a disk was removed or replaced while the machine ran, which
        alone holds what was on it. Default ``False``.

    Returns what ``vm_stop`` and ``vm_start`` return.

    CLI Example:

    .. code-block:: bash

        salt-call qemulab.vm_restart master
    """
    with face.errors():
        face.need_root()
        site = _site(lab)
        face.defined(site, name)
        how, said = apply_power.restart(site, name, lose_data)
        return {"how": how, **_started(site, name, said)}


def vm_reset(name, lab=None):
    """
    Press a running machine's reset button.

    name
        Name of the machine.

    lab
        Name of the lab. Default: the pillar's.

    CLI Example:

    .. code-block:: bash

        salt-call qemulab.vm_reset master
    """
    with face.errors():
        face.need_root()
        site = _site(lab)
        face.defined(site, name)
        powers.reset(site, name)
        return True


def vm_argv(name, lab=None):
    """
    Return the command line that a machine would be started with.

    name
        Name of a machine that has been applied, or stands in the pillar.

    lab
        Name of the lab. Default: the pillar's.

    Returns ``argv`` as a list, and ``command``, the same for a shell.

    CLI Example:

    .. code-block:: bash

        salt-call qemulab.vm_argv master
    """
    with face.errors():
        site = _site(lab)
        face.need_name(name, "name")
        vm, _ = site.store.vm(name)
        networks = site.store.all_networks()
        if vm is None:
            pillar = __pillar__.get("lab")
            declared = spec.from_pillar(pillar, lambda _name: host_ports.ports(site)).lab
            vm = declared.vms.get(name) or face.defined(site, name)
            networks = {**declared.networks, **networks}
        argv = launch.argv(site, name, vm, networks)
        return {"argv": argv, "command": shlex.join(argv)}


def vm_console(name, lines=40, lab=None):
    """
    Return the end of what a machine said on its serial console.

    name
        Name of the machine.

    lines
        How many lines. Default 40.

    lab
        Name of the lab. Default: the pillar's.

    CLI Example:

    .. code-block:: bash

        salt-call --out=txt qemulab.vm_console master
    """
    with face.errors():
        site = _site(lab)
        face.defined(site, name)
        face.need(kinds.integer(1, 100_000), lines, "lines")
        text = host.read(site.layout.console(name), limit=lines * 400) or ""
        # The firmware moves the cursor and paints; a log has no screen.
        # Where a long log was cut, there may be a hole.
        plain = re.sub(r"\x1b(\[[0-9;?=]*[A-Za-z]|[()][A-Z0-9])|\r|\0", "", text)
        return "\n".join(plain.splitlines()[-lines:])
