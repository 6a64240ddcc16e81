"""
Labs of QEMU machines: the machines.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

import _qemulab_apply_converge as converge
import _qemulab_apply_power as powers
import _qemulab_apply_vm as machines
import _qemulab_face as face
import _qemulab_pillar_kinds as kinds
import _qemulab_pillar_schema as schema
import _qemulab_pillar_spec as spec
import _qemulab_vm_access as access
import _qemulab_vm_console_log as console
import _qemulab_vm_disks as disks
import _qemulab_vm_hardware as hardware
import _qemulab_vm_launch as launch
import _qemulab_vm_status as vm_status
from _qemulab_plan_status import Status
from _qemulab_run_site import Site

__opts__: dict[str, Any]
__pillar__: dict[str, Any]
__context__: dict[str, Any]
__grains__: dict[str, Any]

__virtualname__ = "qemulab"

ROW = schema.mapping_of(kinds.NAME, kinds.ANYTHING)
"""Machines of a row, each with what a call of its own is to do."""


def __virtual__() -> str | tuple[bool, str]:
    return face.virtual(__grains__, __virtualname__)


def _site(lab: str | None = None) -> Site:
    return face.site(__opts__, __pillar__, __context__, lab)


def _changeable(name: str, lab: str | None) -> Site:
    """Return the lab of a machine that is about to be changed."""
    converge.need_root()
    face.need_name(name, "name")
    return _site(lab)


def _started(site: Site, name: str, warnings: list[str]) -> dict[str, Any]:
    """Return how a machine is that has just been started, and what is to be said of it."""
    defined = powers.need_defined(site, name)
    ssh = access.ssh_command(site, name, defined) or None
    return {"status": Status.RUNNING.value, "ssh": ssh, **_warnings(warnings)}


def _warnings(texts: list[str]) -> dict[str, list[str]]:
    return {"warnings": texts} if texts else {}


def vm_list(lab: str | None = None) -> dict[str, str]:
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
        return {name: vm_status.find_status(site, name)[0].value for name in site.store.vms()}


def vm_info(name: str, lab: str | None = None) -> dict[str, Any] | None:
    """
    Return what a machine is declared as and how it is, ``None`` where there is none.

    name
        Name of the machine.

    lab
        Name of the lab. Default: the pillar's.

    ``status`` is ``stopped``, ``failed``, ``starting``, ``unresponsive`` (it does not answer),
    ``unmanaged`` or ``unknown`` (it runs, but is not provably ours), or what QEMU says:
    ``running``, ``paused``, ``io-error`` and others.

    ``hardware`` is the number of the hardware that it was made with: no release changes that.

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
        status, pid = vm_status.find_status(site, name)
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
            "hardware": hardware.find(site, name),
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


def vm_ensure(
    name: str,
    declaration: Mapping[str, Any] | None = None,
    power: str = "present",
    lab: str | None = None,
    test: bool = False,
    together: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
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
        return machines.ensure(site, name, declaration, power, test, together)


def vm_remove(
    name: str,
    purge: bool = False,
    lab: str | None = None,
    test: bool = False,
    together: Mapping[str, Any] | None = None,
    known: bool = True,
) -> dict[str, Any]:
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
        row = face.need(ROW, together or {}, "together")
        if known and name not in site.store.vm_directories() and not vm_status.runs(site, name):
            powers.need_defined(site, name)
        return machines.ensure_absent(site, name, purge, test, row)


def vm_power_off(
    name: str,
    lab: str | None = None,
    test: bool = False,
    together: list[str] | None = None,
) -> dict[str, Any]:
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
        return machines.ensure_off(site, name, test, together or [])


def vm_start(name: str, lab: str | None = None) -> dict[str, Any]:
    """
    Start a machine as it was last applied, and wait until it runs.

    One that is paused, or was stopped as the host was full, runs on; one whose guest is dead
    (``internal-error``, ``guest-panicked``) is powered off and on.

    name
        Name of the machine.

    lab
        Name of the lab. Default: the pillar's.

    Returns its status, the command that logs in, and as ``warnings`` what is not as it was: disks
    that were made anew, empty or from their backing images, UEFI variables of another firmware, and
    generated files that somebody had edited.

    CLI Example:

    .. code-block:: bash

        salt-call qemulab.vm_start master
    """
    with face.errors():
        site = _changeable(name, lab)
        return _started(site, name, powers.start(site, name))


def vm_stop(name: str, grace: int | None = None, lab: str | None = None) -> dict[str, Any]:
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
        site = _changeable(name, lab)
        if grace is not None:
            face.need(kinds.integer(0, 3600, "s"), grace, "grace")
        how, warnings = powers.stop(site, name, grace)
        return {"how": how, **_warnings(warnings)}


def vm_restart(name: str, lab: str | None = None, lose_data: bool = False) -> dict[str, Any]:
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
        site = _changeable(name, lab)
        how, warnings = powers.restart(site, name, lose_data)
        return {"how": how, **_started(site, name, warnings)}


def vm_reset(name: str, lab: str | None = None) -> bool:
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
        powers.reset(_changeable(name, lab), name)
        return True


def vm_argv(name: str, lab: str | None = None) -> dict[str, Any]:
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
        argv = machines.find_argv(site, name, __pillar__.get("lab"))
        return {"argv": argv, "command": shlex.join(argv)}


def vm_console(name: str, lines: int = 40, lab: str | None = None) -> str:
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
        face.need_name(name, "name")
        powers.need_defined(site, name)
        face.need(kinds.integer(1, 100_000), lines, "lines")
        return console.last_lines(site.layout.console(name), lines)
