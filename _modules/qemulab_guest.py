"""
Labs of QEMU machines: the built-in guest's image.
"""

from __future__ import annotations

from typing import Any

import _qemulab_apply_guest as guests
import _qemulab_face as face
import _qemulab_guest_image as image
from _qemulab_run_site import Site

__opts__: dict[str, Any]
__pillar__: dict[str, Any]
__context__: dict[str, Any]
__grains__: dict[str, Any]

__virtualname__ = "qemulab"


def __virtual__() -> str | tuple[bool, str]:
    return face.virtual(__grains__, __virtualname__)


def _site(lab: str | None) -> Site:
    return face.site(__opts__, __pillar__, __context__, lab)


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


def guest_remove(lab: str | None = None, test: bool = False) -> dict[str, Any]:
    """
    Remove the built-in guest's image, which all labs of this host share.

    A purge leaves it, so that the next lab needs no network. After this one, the next lab that
    boots it builds it again.

    lab
        Name of the lab; the image is the same for all of a host.

    test
        Only say what would be done. Default ``False``.

    Returns what every ``*_ensure`` returns. Raises CommandExecutionError where a machine runs that
    boots it, of whichever lab: its supervisor could not start it again.

    CLI Example:

    .. code-block:: bash

        salt-call qemulab.guest_remove
    """
    with face.errors():
        return guests.ensure_absent(_site(lab), test)
