"""
Where the SLS files lie: beside the modules, in each form that the two travel in together.
"""

from __future__ import annotations

from pathlib import Path


def file_root(modules: Path) -> Path | None:
    """
    Return the directory to name in ``file_roots``, ``None`` where the SLS files are not there.

    modules
        The directory of the execution modules.

    A checkout and a wheel have them in ``salt/`` beside it; a formula, as SPM, Debian and openSUSE
    install it, has the folder ``lab`` itself there. Modules that were synced have neither.
    """
    for root in (modules.parent / "salt", modules.parent):
        if (root / "lab" / "init.sls").is_file():
            return root
    return None
