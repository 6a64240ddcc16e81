"""
Labs of QEMU machines: the lab as a whole.

:depends: QEMU 7.2 or newer, socat, dnsmasq, iproute2; see ``lab.packages``
"""

from __future__ import annotations

from typing import Any

import _qemulab_apply_guest as guests
import _qemulab_apply_lab as labs
import _qemulab_check_declaration as declarations
import _qemulab_face as face
import _qemulab_guest_image as image
import _qemulab_host_seam as host
import _qemulab_pillar_kinds as kinds
import _qemulab_pillar_spec as spec
import _qemulab_vm_access as access
from _qemulab_pillar_keys import DEFAULT_LAB
from _qemulab_run_site import Site

__opts__: dict[str, Any]
__pillar__: dict[str, Any]
__context__: dict[str, Any]
__grains__: dict[str, Any]

__virtualname__ = "qemulab"


def __virtual__() -> str | tuple[bool, str]:
    if __grains__["kernel"] != "Linux":
        return False, "qemulab needs Linux"
    return __virtualname__


def _site(lab: str | None = None) -> Site:
    return face.site(__opts__, __pillar__, __context__, lab)


def validate(pillar: Any = None) -> dict[str, Any]:
    """
    Check a declaration whole, without touching anything.

    pillar
        What stands under ``lab`` in a pillar. Default: this minion's.

    Returns ``valid``, ``empty`` (it does not say what machines there are to be), and ``faults`` and
    ``warnings`` as lists of texts, each with its path. A faulty one gives
    ``salt-call --retcode-passthrough`` (and ``./salt-call``) exit status 1.

    CLI Example:

    .. code-block:: bash

        salt-call qemulab.validate
    """
    with face.errors():
        _, found = declarations.survey(_pillar(pillar), _site)
        if not found["valid"]:
            __context__["retcode"] = 1
        return found


def _pillar(pillar: Any) -> Any:
    return __pillar__.get("lab") if pillar is None else pillar


def _meant(declared: Any) -> Site | None:
    """Return the lab that a declaration is of; ``None`` where that cannot be told."""
    try:
        return _site(face.lab_name({"lab": declared}, None))
    except kinds.SpecError:
        return None


def declaration(pillar: Any = None, running: bool = False) -> dict[str, Any]:
    """
    Return a declaration with what is made for each thing of it: MAC addresses, ports, groups.

    What the SLS tree renders its states from: one that is faulty, by itself or on this host, gives
    no thing at all, only ``valid: False``, and never an error.

    pillar
        What stands under ``lab`` in a pillar. Default: this minion's.

    running
        Have ``made`` name what runs as well, whatever is left of its files. Default ``False``: it
        costs a look at the host's processes.

    Returns ``name`` (``None`` where it is faulty), ``valid``, ``faults`` (why this host cannot have
    it), ``networks`` and ``vms`` (by name, ready for the states), ``reservations``,
    ``stale_reservations`` (made earlier, no longer declared), ``guest`` (the machines that boot
    it), ``authorized_keys``, ``prune``, ``missing_packages``, ``acts`` (whether it says what
    machines there are to be: an explicit ``vms: {}`` says none, an empty declaration nothing), and
    ``made`` (what of the lab exists on this host, declared or not).

    CLI Example:

    .. code-block:: bash

        salt-call qemulab.declaration
    """
    with face.errors():
        declared = _pillar(pillar)
        site = _meant(declared)
        if site is None:
            return dict(declarations.NOTHING)
        found = declarations.read(declared, site, _site)
        return {**found, "made": labs.find_made(site)} if running else found


def missing_packages(pillar: Any = None) -> list[str]:
    """
    Return the distribution's packages that a declaration needs and the host has not.

    pillar
        What stands under ``lab`` in a pillar. Default: this minion's; an empty or faulty one is
        taken for a lab that needs everything.

    CLI Example:

    .. code-block:: bash

        salt-call qemulab.missing_packages
    """
    with face.errors():
        missing = declarations.find_missing_packages(_pillar(pillar))
        if missing and not __opts__["test"]:
            host.progress(f"installing {', '.join(missing)}")
        return missing


def lab_check(pillar: Any = None) -> dict[str, Any]:
    """
    Check a declaration whole, without touching anything; all its faults are one error.

    pillar
        What stands under ``lab`` in a pillar. Default: this minion's.

    Where something of it does not run, the host is looked at as well, as ``doctor`` does, as far as
    that costs next to nothing. Returns ``empty`` (nothing is declared), ``warnings``, and ``runs``,
    what runs on although nothing is declared. Raises CommandExecutionError with every fault, each
    with its path and what is allowed, and what runs on all the same; or with why this host can have
    no such lab.

    CLI Example:

    .. code-block:: bash

        salt-call qemulab.lab_check '{"vms": {"master": {"memmory": 4096}}}'
    """
    with face.errors():
        declared = _pillar(pillar)
        meant = _meant(declared) or _site(DEFAULT_LAB)
        found = declarations.need_possible(declared, meant, _site)
        if found["empty"] and pillar is None:
            found["warnings"] += face.near_key(__pillar__)
        return found


def lab_ensure(
    authorized_keys: list[str] | None = None, lab: str | None = None, test: bool = False
) -> dict[str, Any]:
    """
    Make what a lab needs before its first network: system user, SSH key, keys that may log in.

    authorized_keys
        Public SSH keys. Default: those of the user behind sudo.

    lab
        Name of the lab. Default: the pillar's.

    test
        Only say what would be done. Default ``False``.

    Returns what every ``*_ensure`` returns: ``changes``, ``pending`` and ``refused`` by key, each
    with old, new and effect; ``notes``; ``machines``.

    CLI Example:

    .. code-block:: bash

        salt-call qemulab.lab_ensure test=True
    """
    with face.errors():
        keys = spec.from_pillar({"authorized_keys": authorized_keys or []}).lab.authorized_keys
        return labs.ensure(_site(lab), keys, test)


def guest_info(lab: str | None = None) -> dict[str, Any] | None:
    """
    Return what is known of the built-in guest's image, ``None`` where it is not built.

    lab
        Name of the lab; the image is the same for all of a host.

    CLI Example:

    .. code-block:: bash

        salt-call qemulab.guest_info
    """
    with face.errors():
        return image.info(_site(lab).layout.guest)


def guest_ensure(lab: str | None = None, test: bool = False) -> dict[str, Any]:
    """
    Build the built-in guest's image where it is missing.

    lab
        Name of the lab; the image is the same for all of a host.

    test
        Only say what would be done. Default ``False``.

    Returns what every ``*_ensure`` returns.

    CLI Example:

    .. code-block:: bash

        salt-call qemulab.guest_ensure
    """
    with face.errors():
        return guests.ensure(_site(lab), test)


def prune(
    vms: list[str],
    networks: list[str],
    mode: str = "report",
    lab: str | None = None,
    test: bool = False,
) -> dict[str, Any]:
    """
    Deal with what the lab has and the pillar no longer declares. No disk is ever removed.

    vms, networks
        Names that are declared.

    mode
        ``report`` (default) only names what is left; ``stop`` powers the machines off and takes
        the networks down.

    lab
        Name of the lab. Default: the pillar's.

    test
        Only say what would be done. Default ``False``.

    Returns what every ``*_ensure`` returns.

    CLI Example:

    .. code-block:: bash

        salt-call qemulab.prune '["master"]' '["vmlan"]'
    """
    with face.errors():
        site = _site(lab)
        face.need_names(vms, "vms")
        face.need_names(networks, "networks")
        face.need(kinds.choice("report", "stop"), mode, "mode")
        return labs.prune(site, vms, networks, mode, test)


def lab_remove(purge: bool = False, lab: str | None = None, test: bool = False) -> dict[str, Any]:
    """
    Take the lab itself away when its machines and networks are gone.

    purge
        Also remove its SSH key and its logs: no file of the lab is left. Default ``False``: what
        survives is the machines' disks and the key. The built-in guest always stays: it belongs to
        the host, and ``guest_remove`` removes it.

    lab
        Name of the lab. Default: the pillar's.

    test
        Only say what would be done. Default ``False``.

    Returns what every ``*_ensure`` returns. Raises CommandExecutionError where a machine or a
    network is left, or runs; with ``purge`` also where disks of a machine are (``vm_remove``).

    CLI Example:

    .. code-block:: bash

        salt-call qemulab.lab_remove test=True
    """
    with face.errors():
        return labs.ensure_absent(_site(lab), purge, test)


def ssh_config(lab: str | None = None) -> str:
    """
    Return a configuration for ssh with every machine of the lab.

    lab
        Name of the lab. Default: the pillar's.

    CLI Example:

    .. code-block:: bash

        salt-call --out=txt qemulab.ssh_config | sed 's/^local: \\{0,1\\}//' > lab.ssh
        ssh -F lab.ssh master
    """
    with face.errors():
        site = _site(lab)
        face.need_lab(site, lab)
        vms = {name: site.store.vm(name)[0] for name in site.store.vms()}
        return access.ssh_config(site, {name: vm for name, vm in vms.items() if vm})
