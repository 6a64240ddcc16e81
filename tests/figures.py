"""
What the tests measure while they run: printed at the end of a run, written down by ``--figures``.

A fault's number stands in its test's name (``test_f13_…``, or ``F1-…`` among its parameters), as in
the list of docs/reliability.md: whether it is survived is known without the test's saying so.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import platform
import re
import statistics
import subprocess
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

SUPERVISORS = ("systemd", "supervisord")
NUMBER = re.compile(r"(?:test_|\[|-)([fbFB])(\d+)[-_]")

LEGEND = (
    "Survived; the apply that made the lab whole again, or found that it was, took (without a time",
    "is what breaks nothing or is refused):",
)

Rows = dict[str, dict[str, str]]
"""What a table says: by row, then by supervisor."""


class Figures:
    """
    What one test measures: the fixture ``figures``.

    test
        The test. Its report carries the figures, from another process where the tests run in
        several.
    """

    def __init__(self, test: pytest.Item) -> None:
        self._test = test

    def seconds(self, what: str, value: float, on: str = "") -> None:
        """
        Note how long something took once.

        what
            What was measured; of all values with the same text, median and worst are told.
        value
            In seconds.
        on
            The supervisor; default none in particular.
        """
        self._test.user_properties.append(("seconds", [what, on, value]))

    def count(self, what: str, found: int, rounds: int, on: str = "") -> None:
        """
        Note how often something happened that must not.

        found
            How often.
        rounds
            How often it could have. Both are added up over all calls with the same text.
        """
        self._test.user_properties.append(("count", [what, on, found, rounds]))

    @contextlib.contextmanager
    def healing(self, on: str = "") -> Iterator[None]:
        """
        Note how long the apply in a ``with`` block takes that ends a fault's test.

        In seconds, Salt's own start included; whether or not it has to heal.
        """
        begin = time.monotonic()
        yield
        number = NUMBER.search(self._test.name)
        if number is not None:
            took = time.monotonic() - begin
            self._test.user_properties.append(("healed", [fault(number), on, took]))


class Collected:
    """
    Collects what one run of the tests measures.

    path
        Where it is written as Markdown at the end; ``None`` for nowhere.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.durations: dict[tuple[str, str], list[float]] = defaultdict(list)
        self.counts: dict[tuple[str, str], tuple[int, int]] = {}
        self.failed: set[str] = set()
        self.faults: dict[tuple[str, str], bool] = {}
        self.applies: dict[tuple[str, str], list[float]] = defaultdict(list)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take a test's figures, and whether a fault with a number is survived to the end."""
        if not report.passed:
            self.failed.add(report.nodeid)
        if report.when != "teardown":
            return
        on = next((name for name in SUPERVISORS if name in report.nodeid), "")
        for kind, values in report.user_properties:
            if kind == "seconds":
                self.durations[values[0], values[1]].append(values[2])
            elif kind == "healed":
                on = values[1]
                self.applies[values[0], on].append(values[2])
            elif kind == "count":
                found, rounds = self.counts.get((values[0], values[1]), (0, 0))
                self.counts[values[0], values[1]] = (found + values[2], rounds + values[3])
        number = NUMBER.search(report.nodeid.rsplit("::", 1)[-1])
        if number is not None:
            key = (fault(number), on)
            self.faults[key] = self.faults.get(key, True) and report.nodeid not in self.failed

    def tables(self) -> list[str]:
        """Return all of it as lines of Markdown; none where nothing was measured."""
        figures: Rows = defaultdict(dict)
        for (what, on), found in self.counts.items():
            figures[what][on] = f"{found[0]} of {found[1]}"
        for (what, on), values in self.durations.items():
            figures[what][on] = spread(values)
        faults: Rows = defaultdict(dict)
        for (number, on), passed in sorted(self.faults.items(), key=lambda item: order(item[0][0])):
            applies = self.applies.get((number, on))
            survived = f"yes; {spread(applies)}" if applies else "yes"
            faults[number][on] = survived if passed else "**no**"
        lines = []
        if figures:
            lines += ["", *rows("figure", figures)]
        if faults:
            lines += ["", *LEGEND, ""]
            lines += rows("fault or bad input", faults)
        return lines

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print the figures, and write them where ``--figures`` says."""
        lines = self.tables()
        if not lines:
            return
        terminalreporter.section("figures")
        for line in lines:
            terminalreporter.write_line(line)
        if self.path is not None:
            self.path.write_text("\n".join([*heading(), *lines, ""]), encoding="utf-8")


def spread(values: list[float]) -> str:
    """Return durations in words: the median, and the worst of several."""
    text = f"{statistics.median(values):.2f} s"
    return text if len(values) == 1 else f"{text} (worst of {len(values)}: {max(values):.2f} s)"


def rows(what: str, cells: Rows) -> list[str]:
    """Return a table's lines: a column a supervisor, and one for what needs neither."""
    head = [f"| {what} | systemd | supervisord | without either |", "|---|---|---|---|"]
    places = (*SUPERVISORS, "")
    return head + [
        f"| {name} | " + " | ".join(row.get(on, "") for on in places) + " |"
        for name, row in cells.items()
    ]


def fault(number: re.Match[str]) -> str:
    """Return a fault's number as the list has it."""
    return number[1].upper() + number[2]


def order(number: str) -> tuple[str, int]:
    """Return by what numbers of faults are sorted: B9 before B10, all of B before F1."""
    return number[0], int(number[1:])


def heading() -> list[str]:
    """Return what a table of figures has to say of its run: when, and on what."""
    today = datetime.datetime.now(datetime.timezone.utc).date().isoformat()
    qemu = subprocess.run(["qemu-system-x86_64", "--version"], capture_output=True, text=True)
    version = qemu.stdout.partition("\n")[0].removeprefix("QEMU emulator ")
    pretty = platform.freedesktop_os_release()["PRETTY_NAME"]
    return [
        "# Figures of the fault tests",
        "",
        f"Made by `./test --figures` on {today}: {pretty}, {os.cpu_count()} cores, QEMU {version}.",
    ]
