"""
Render the SLS files of the lab, or have Salt apply one, for one pillar after another.

Run by ``test_sls.py`` in a Python of its own, which has Salt. A pillar comes in as JSON on a line,
and the SLS file that is to be applied as a dry run; without one, what goes out is what YAML made of
each rendered SLS, by its name.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import salt.loader
import salt.utils.templates
from loader_probe import options


def main(directory: str, checkout: str) -> None:
    """Answer until there is nothing more to read."""
    opts = options(Path(directory), Path(checkout))
    opts["qemulab.root"] = directory
    opts["test"] = True
    functions = salt.loader.minion_mods(opts, utils=salt.loader.utils(opts))
    renderers = salt.loader.render(opts, functions)
    functions["qemulab.declaration"]({})  # loads it
    declaration = sys.modules["_qemulab_check_rendering"]
    looks_at_the_host = declaration.of_this_host
    for line in sys.stdin:
        pillar, sls = json.loads(line)
        found: dict[str, Any] = {}
        if sls:
            declaration.of_this_host = looks_at_the_host
            found = functions["state.apply"](sls, test=True, pillar=pillar)
            print(json.dumps(found, default=repr), flush=True)
            continue
        # As on a host that has every file which a pillar names: it is the texts that count here.
        declaration.of_this_host = lambda *_: []
        for path in sorted(Path(checkout, "salt/lab").glob("*.sls")):
            name = f"lab.{path.stem}".removesuffix(".init")
            rendered = salt.utils.templates.JINJA(
                str(path),
                to_str=True,
                opts=opts,
                salt=functions,
                grains=opts["grains"],
                pillar=pillar,
                saltenv="base",
                sls=name,
                tmplpath=str(path),
            )
            assert rendered["result"], rendered["data"]
            found[name] = renderers["yaml"](rendered["data"])
        print(json.dumps(found, default=repr), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
