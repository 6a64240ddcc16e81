"""
The planner, for generated files that somebody else has changed or removed. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping

from _qemulab_plan_changes import LIVE
from _qemulab_plan_changes import Change


def file_changes(files: Mapping[str, str]) -> list[Change]:
    """
    Return what puts generated files back.

    files
        Those that are not as they were written, by name: ``edited`` or ``absent``.
    """
    return [Change(("files", name), how, "generated", LIVE) for name, how in sorted(files.items())]
