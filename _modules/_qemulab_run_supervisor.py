"""
The supervisor of a lab: the one that this host has; what it changes is asked anew afterwards.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from collections.abc import Sequence
from pathlib import Path

from _qemulab_host_paths import Layout
from _qemulab_run_answers import Answers
from _qemulab_run_by_supervisord import Supervisord
from _qemulab_run_by_systemd import Systemd
from _qemulab_run_protocol import Supervisor
from _qemulab_run_units import Unit


def supervisor_for(layout: Layout) -> Supervisor:
    """Return the supervisor of this host. Source: sd_booted(3) for how systemd is told."""
    if Path("/run/systemd/system").is_dir():
        return Systemd(layout)
    return Supervisord(layout)


class LabSupervisor:
    """
    A supervisor that has the host's answers forgotten whenever it has changed something.

    supervisor
        What does it.

    answers
        What the host has answered.
    """

    def __init__(self, supervisor: Supervisor, answers: Answers) -> None:
        self.name = supervisor.name
        self._supervisor = supervisor
        self._answers = answers
        # What only asks.
        self.check = supervisor.check
        self.status = supervisor.status
        self.has = supervisor.has
        self.log = supervisor.log
        self.remains = supervisor.remains

    @contextlib.contextmanager
    def _changing(self) -> Iterator[Supervisor]:
        try:
            yield self._supervisor
        finally:
            self._answers.forget()

    def open(self) -> None:
        """Begin to come up, for a lab that is about to have units; does not wait."""
        with self._changing() as supervisor:
            supervisor.open()

    def end_lost(self) -> None:
        """End a supervisor that nobody can reach any more: it starts again what has ended."""
        with self._changing() as supervisor:
            supervisor.end_lost()

    def start(self, wanted: Sequence[Unit]) -> None:
        """Define units and start those that do not run; raises HostError for the first refused."""
        with self._changing() as supervisor:
            supervisor.start(wanted)

    def update(self, unit: Unit) -> None:
        """Define a unit anew without starting or stopping it."""
        with self._changing() as supervisor:
            supervisor.update(unit)

    def mend(self) -> None:
        """Write those files anew that belong to no single unit, and that somebody has been at."""
        with self._changing() as supervisor:
            supervisor.mend()

    def stop(self, kind: str, name: str, hard: bool = False) -> None:
        """Stop a unit and wait for its end; ``hard`` sends SIGKILL at once."""
        with self._changing() as supervisor:
            supervisor.stop(kind, name, hard)

    def forget(self, kind: str, name: str) -> None:
        """Remove a stopped unit's definition."""
        with self._changing() as supervisor:
            supervisor.forget(kind, name)

    def close(self) -> None:
        """Remove what the supervisor needed for a lab that has no unit left."""
        with self._changing() as supervisor:
            supervisor.close()
