"""
Load the checkout's modules as a minion does, and print what came of it as JSON.

Run by ``test_loader.py`` in a Python of its own: in that of the tests, the private siblings could
be imported without Salt's doing.
"""

from __future__ import annotations

import json
import logging
import sys
import warnings
from pathlib import Path
from typing import Any

import salt.config
import salt.loader
import salt.payload


class Kept(logging.Handler):
    """Keeps what is logged from warnings upwards."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a record's text, with the traceback where it has one."""
        self.lines.append(logging.Formatter("%(name)s: %(message)s").format(record))


def options(directory: Path, checkout: Path) -> dict[str, Any]:
    """Return a masterless minion's options, with the checkout in ``module_dirs``."""
    configuration = directory / "minion"
    configuration.write_text(
        json.dumps(
            {
                "id": "qemulab",
                "file_client": "local",
                "root_dir": str(directory),
                "module_dirs": [str(checkout)],
                "file_roots": {"base": [str(checkout / "salt")]},
                "enable_fqdns_grains": False,
                "enable_gpu_grains": False,
            }
        ),
        encoding="utf-8",
    )
    found = salt.config.minion_config(str(configuration))
    found["grains"] = salt.loader.grains(found)
    found["pillar"] = {}
    return dict(found)


def main(directory: str, checkout: str) -> None:
    """Print the loaded names, and what Salt's own ``sys`` says of them."""
    kept = Kept()
    logging.getLogger().addHandler(kept)
    warned: list[str] = []
    warnings.simplefilter("always")
    warnings.showwarning = lambda message, category, file, line, *_: warned.append(
        f"{file}:{line}: {message}"
    )
    opts = options(Path(directory), Path(checkout))
    utils = salt.loader.utils(opts)
    functions = salt.loader.minion_mods(opts, utils=utils)
    states = salt.loader.states(opts, functions, utils, salt.loader.serializers(opts))
    names = [name for name in functions if "qemulab" in name]
    state_names = [name for name in states if "qemulab" in name]
    found = {
        "functions": sorted(names),
        "states": sorted(state_names),
        "doc": functions["sys.doc"]("qemulab"),
        "state_doc": functions["sys.state_doc"]("qemulab"),
        "argspec": functions["sys.argspec"]("qemulab"),
        "state_argspec": functions["sys.state_argspec"]("qemulab"),
        "state_schema": functions["sys.state_schema"]("qemulab"),
        "packed": len(salt.payload.dumps(functions["sys.argspec"]("qemulab"))),
        "log": [line for line in kept.lines if "qemulab" in line],
        "warned": [line for line in warned if line.startswith(f"{checkout}/_")],
    }
    json.dump(found, sys.stdout, default=repr)


if __name__ == "__main__":
    main(*sys.argv[1:])
