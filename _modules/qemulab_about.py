"""
Labs of QEMU machines: what of qemulab is installed here, and what it works with.
"""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import _qemulab_face as face
import _qemulab_host_probe as probe
import _qemulab_host_sls_files as tree
import _qemulab_version
from _qemulab_run_site import Site
from salt.exceptions import CommandExecutionError
from salt.version import __version__ as salt_version

__opts__: dict[str, Any]
__pillar__: dict[str, Any]
__context__: dict[str, Any]
__grains__: dict[str, Any]

__virtualname__ = "qemulab"


def __virtual__() -> str | tuple[bool, str]:
    return face.virtual(__grains__, __virtualname__)


def _site(lab: str | None = None) -> Site:
    return face.site(__opts__, __pillar__, __context__, lab)


def file_root() -> str:
    """
    Return the directory with the SLS files, for ``file_roots``.

    They are found from a checkout, a wheel and a formula that is installed as a package. Raises
    CommandExecutionError where the modules came without them: synced, by a master or over
    salt-ssh. Whoever sent those serves the SLS files as well.

    CLI Example:

    .. code-block:: bash

        salt-call --local --out=txt qemulab.file_root | sed 's/^local: //'
    """
    modules = Path(__file__).parent
    root = tree.file_root(modules)
    if root is None:
        raise CommandExecutionError(
            f"the SLS files are not on this host: only the modules were synced, to {modules}; "
            "they stay where those came from, in the file_roots of the master"
        )
    return str(root)


def version(lab: str | None = None) -> dict[str, Any]:
    """
    Return the versions of all that takes part, the firmware found and the accelerator chosen.

    lab
        Name of the lab. Default: the pillar's.

    What is not installed is ``None``.

    CLI Example:

    .. code-block:: bash

        salt-call qemulab.version
    """
    with face.errors():
        site = _site(lab)
        chosen = probe.accel("auto")
        found = probe.find_firmware("pc")
        return {
            "qemulab": _qemulab_version.VERSION,
            "salt": salt_version,
            "python": platform.python_version(),
            "distribution": probe.distribution_name(),
            "linux": platform.release(),
            "qemu": probe.said_version("qemu-system-x86_64", "--version"),
            "socat": probe.said_version("socat", "-V"),
            "dnsmasq": probe.said_version("dnsmasq", "--version"),
            "firmware": found.code if found else None,
            "accelerator": {"name": chosen.name, "reason": chosen.reason},
            "supervisor": site.supervisor.name,
        }
