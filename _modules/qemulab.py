"""
Labs of QEMU machines: a declaration, checked, and ready for the states.

:depends: QEMU 7.2 or newer, socat, dnsmasq, iproute2; see ``lab.packages``
"""

from __future__ import annotations

from typing import Any

import _qemulab_apply_lab as labs
import _qemulab_check_rendering as declarations
import _qemulab_face as face
import _qemulab_host_seam as host
import _qemulab_pillar_kinds as kinds
from _qemulab_pillar_keys import DEFAULT_LAB
from _qemulab_run_site import Site

__opts__: dict[str, Any]
__pillar__: dict[str, Any]
__context__: dict[str, Any]
__grains__: dict[str, Any]

__virtualname__ = "qemulab"


def __virtual__() -> str | tuple[bool, str]:
    return face.virtual(__grains__, __virtualname__)


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
