"""
How a machine or a process is: every word for it, with what it means and what is done about it.

The one place of these words. A supervisor says some of them of each process that it runs, QEMU says
most of a machine, and the rest is said where those two do not fit together. Pure.
"""

from __future__ import annotations

from enum import Enum

_STOP = "qemulab.vm_stop"


class Handling(Enum):
    """What an apply does with a machine that is declared to run, by how the machine is."""

    OFF = "starts it"
    ON = "leaves it running"
    HELD = "lets it run on"
    DEAD = "powers it off and on"
    DOUBTFUL = "starts it no second time"
    OTHER = "leaves it as it is"


class Status(str, Enum):
    """
    How a machine is, in one word; how a process of a network is as well.

    It is its word wherever a text is wanted, and is compared with a text as such.

    handling
        What an apply does about it.

    means
        What it means to a user.

    hint
        What the user does about it; ``{name}`` stands for the machine. Empty: nothing.
    """

    handling: Handling
    means: str
    hint: str

    # What supervisor and files say.
    STOPPED = "stopped", Handling.OFF, "it does not run"
    FAILED = "failed", Handling.OFF, "it does not run: it ended badly, and its supervisor gave up"
    STARTING = "starting", Handling.DOUBTFUL, "it does not answer yet", "try again in a moment"
    UNRESPONSIVE = (
        "unresponsive",
        Handling.DOUBTFUL,
        "it does not answer; another client may hold it",
        _STOP,
    )
    UNMANAGED = (
        "unmanaged",
        Handling.DOUBTFUL,
        "it runs without its supervisor",
        "salt-call qemulab.vm_restart {name}",
    )
    UNKNOWN = (
        "unknown",
        Handling.DOUBTFUL,
        "its process, its socket and its UUID do not agree",
        "end it yourself",
    )

    # What QEMU says. Source: QEMU's qapi/run-state.json, RunState
    RUNNING = "running", Handling.ON, "it runs"
    PAUSED = "paused", Handling.HELD, "somebody has stopped it over QMP"
    IO_ERROR = (
        "io-error",
        Handling.HELD,
        "a disk could not be written: the host is full, as a rule",
        "make room first",
    )
    INTERNAL_ERROR = "internal-error", Handling.DEAD, "QEMU or KVM cannot run the guest any further"
    GUEST_PANICKED = "guest-panicked", Handling.DEAD, "the guest has crashed, and said so"
    PRELAUNCH = "prelaunch", Handling.OTHER, "QEMU is there, and its guest has not begun", _STOP
    INMIGRATE = "inmigrate", Handling.OTHER, "it waits for a migration to come in", _STOP
    POSTMIGRATE = "postmigrate", Handling.OTHER, "it has been migrated to elsewhere", _STOP
    FINISH_MIGRATE = "finish-migrate", Handling.OTHER, "it is held while a migration ends", _STOP
    SAVE_VM = "save-vm", Handling.OTHER, "it is held while a snapshot is written", _STOP
    RESTORE_VM = "restore-vm", Handling.OTHER, "it is held while a snapshot is read", _STOP
    SUSPENDED = "suspended", Handling.OTHER, "its guest sleeps (ACPI S3)", _STOP
    SHUTDOWN = "shutdown", Handling.OTHER, "its guest is off, and QEMU is not", _STOP
    WATCHDOG = "watchdog", Handling.OTHER, "its watchdog has stopped it", _STOP
    DEBUG = "debug", Handling.OTHER, "a debugger holds it", _STOP
    COLO = "colo", Handling.OTHER, "it is held while its state is copied (COLO)", _STOP
    OTHER = "other", Handling.OTHER, "QEMU has a word for it that this release does not know", _STOP

    def __new__(cls, word: str, handling: Handling, means: str, hint: str = "") -> Status:
        """Make a member: the word is its value."""
        made = str.__new__(cls, word)
        made._value_ = word
        made.handling = handling
        made.means = means
        made.hint = hint
        return made

    @classmethod
    def of_qemu(cls, word: str) -> Status:
        """Return what QEMU says, ``OTHER`` where that is a word of a QEMU newer than this list."""
        return next((each for each in cls if each == word), cls.OTHER)

    def __str__(self) -> str:
        """Return the word."""
        return str(self.value)

    @property
    def is_off(self) -> bool:
        """Whether it does not run, so that it can be started."""
        return self.handling is Handling.OFF

    @property
    def is_held(self) -> bool:
        """Whether QEMU has stopped it in a way that ``cont`` ends."""
        return self.handling is Handling.HELD

    @property
    def is_dead(self) -> bool:
        """Whether only a reset ends it: what was in the guest's memory is lost already."""
        return self.handling is Handling.DEAD

    @property
    def is_doubtful(self) -> bool:
        """Whether it may run, and is not to be touched as if it were known to."""
        return self.handling is Handling.DOUBTFUL

    @property
    def is_open(self) -> bool:
        """Whether a machine that is being started may yet become anything."""
        return self in _OPEN


_OPEN = {
    Status.STARTING,
    Status.UNRESPONSIVE,
    Status.STOPPED,
    Status.PRELAUNCH,
    Status.INMIGRATE,
}

UNIT = {
    Status.RUNNING: "its process runs",
    Status.STARTING: "systemd prepares it, or waits before it tries again; no process is there yet",
    Status.FAILED: "it has ended badly; supervisord may be about to try again",
    Status.STOPPED: "it does not run, or the supervisor has never heard of it",
}
"""What a supervisor says of a process, with what it means."""
