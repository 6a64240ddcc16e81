"""
What earlier applies stored of a lab: its networks with their reservations, and its machines.

Functions that take a name read what was applied from here.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from typing import TypeVar
from typing import cast

import _qemulab_host_owned as own
import _qemulab_host_seam as host
import _qemulab_pillar_spec as spec
from _qemulab_host_paths import Layout
from _qemulab_host_seam import File
from _qemulab_pillar_keys import Network
from _qemulab_pillar_keys import Reservation
from _qemulab_pillar_keys import Vm
from _qemulab_pillar_kinds import SpecError
from _qemulab_pillar_schema import plain

T = TypeVar("T")


def _network(stored: dict[str, Any]) -> tuple[Network, dict[str, str]]:
    """
    Read a network's file: as applied, and who has yet to reopen it. One that does not say which
    interface it has is no network's.
    """
    network = spec.stored(Network, stored | {"interface": stored["interface"]})
    return network, dict(stored.get("waiting", {}))


def _machine(stored: dict[str, Any]) -> tuple[Vm, Vm | None, tuple[Vm, ...]]:
    """Read a machine's file: as applied, as its process was last started, as it may be instead."""
    started = stored.get("started")
    unsure = tuple(spec.stored(Vm, each) for each in stored.get("unsure", ()))
    return spec.stored(Vm, stored["defined"]), started and spec.stored(Vm, started), unsure


class Store:
    """
    The files that keep a lab as it was applied.

    layout
        Where they lie.
    """

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._files: dict[Path, tuple[Any, Any]] = {}
        """What was read, with the version of its file, by path."""

    def _stored(self, path: Path, parse: Callable[[dict[str, Any]], T]) -> T | None:
        """Return what a file of ours holds, read anew only where it is another file by now."""
        try:
            found = os.stat(path)
        except OSError:
            return None
        # A file is never written in place: a new text is a new file.
        version = (found.st_ino, found.st_mtime_ns, found.st_size)
        if self._files.get(path, (None, None))[0] != version:
            value = host.read_json(path)
            try:
                self._files[path] = version, None if value is None else parse(value)
            except LookupError as err:
                raise host.damaged(path, f"it lacks {err}") from err
            except SpecError as err:
                raise host.damaged(path, err) from err
        return cast("T | None", self._files[path][1])

    def networks(self) -> list[str]:
        """Return the networks that the lab has."""
        names = host.list_directory(self._layout.networks)
        return [name for name in names if self._layout.network_file(name).exists()]

    def network(self, name: str) -> Network | None:
        """Return a network as applied, with its reservations; ``None`` where there is none."""
        return (self._stored(self._layout.network_file(name), _network) or (None, {}))[0]

    def network_waiting(self, name: str) -> dict[str, str]:
        """
        Return the machines that ran when a network was changed so that each has to be restarted:
        by name, each with its process of then (``_qemulab_host_process.identity``). One that has
        another by now has opened the network as it is.
        """
        return (self._stored(self._layout.network_file(name), _network) or (None, {}))[1]

    def all_networks(self) -> dict[str, Network]:
        """Return every network as applied."""
        found = {name: self.network(name) for name in self.networks()}
        return {name: network for name, network in found.items() if network is not None}

    def network_as_file(
        self, name: str, network: Network, waiting: Mapping[str, str] | None = None
    ) -> File:
        """
        Return what keeps a network as applied.

        waiting
            What ``network_waiting`` is to return. Default: what it returns now.
        """
        value: dict[str, Any] = plain(network)
        still = self.network_waiting(name) if waiting is None else dict(waiting)
        if still:
            value["waiting"] = still
        return File(self._layout.network_file(name), host.json_text(value))

    def reservations(self, name: str) -> dict[str, Reservation]:
        """Return what is reserved on a network."""
        network = self.network(name)
        return dict(network.reservations) if network else {}

    def vms(self) -> list[str]:
        """Return the machines that the lab has defined."""
        names = host.list_directory(self._layout.vms)
        return [name for name in names if self._layout.vm_file(name).exists()]

    def vm_directories(self) -> list[str]:
        """Return every machine of which anything is left, its disks at least."""
        names = host.list_directory(self._layout.vms)
        return [name for name in names if own.machine(self._layout, name)]

    def vm(self, name: str) -> tuple[Vm | None, Vm | None]:
        """Return a machine as applied, and as its process was last started."""
        return (self._stored(self._layout.vm_file(name), _machine) or (None, None, ()))[:2]

    def vm_unsure(self, name: str) -> tuple[Vm, ...]:
        """Return what else a machine may run as: a change of what runs was broken off."""
        return (self._stored(self._layout.vm_file(name), _machine) or (None, None, ()))[2]

    def vm_stored(self, name: str) -> int:
        """Return when a machine was last stored, as at each of its starts: nanoseconds, or 0."""
        try:
            return os.stat(self._layout.vm_file(name)).st_mtime_ns
        except OSError:
            return 0

    def vm_as_file(
        self, name: str, defined: Vm, started: Vm | None, unsure: tuple[Vm, ...] = ()
    ) -> File:
        """Return what keeps a machine as applied, as started, and as it may run instead."""
        value: dict[str, Any] = {"defined": plain(defined), "started": started and plain(started)}
        doubts = [plain(each) for each in unsure if each != started]
        if doubts:
            value["unsure"] = doubts
        return File(self._layout.vm_file(name), host.json_text(value))

    def keep_vm(
        self, name: str, defined: Vm, started: Vm | None, unsure: tuple[Vm, ...] = ()
    ) -> None:
        """Keep a machine as applied, as started, and as it may run instead."""
        host.write_all([self.vm_as_file(name, defined, started, unsure)])

    def authorized_keys(self) -> tuple[str, ...] | None:
        """Return who may log in beside the lab's own key; ``None`` where there is no such lab."""
        stored = host.read_json(self._layout.lab_file)
        return None if stored is None else tuple(stored.get("authorized_keys", ()))

    def keep_lab(self, authorized_keys: tuple[str, ...]) -> None:
        """Keep the lab as a whole as applied."""
        host.write_json(self._layout.lab_file, {"authorized_keys": list(authorized_keys)})
