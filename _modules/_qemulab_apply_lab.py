"""
The lab as a whole: what there is of it.
"""

from __future__ import annotations

import _qemulab_host as host
import _qemulab_host_own as own
from _qemulab_plan_lab import LabFacts
from _qemulab_site import Site


def facts(site: Site) -> LabFacts:
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
    )
