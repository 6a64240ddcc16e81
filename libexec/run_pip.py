"""
Runs pip in the virtualenv that this Python is of, with what a user has told pip about the index.

How the package index is reached, and what it may be asked for, holds here as well, whether it
stands in a configuration file or in the environment. All else that pip can be told is about where
and how it installs (user, target, prefix, no-binary, require-virtualenv, ...): made for other
installations, it would keep this one from being filled.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterable
from collections.abc import Mapping

KEPT = frozenset(
    "index-url extra-index-url no-index find-links trusted-host proxy cert client-cert"
    " keyring-provider timeout default-timeout retries cache-dir no-cache-dir constraint"
    " use-feature use-deprecated".split()
)
"""Settings by their names in a configuration file. Source: pip's own `pip install --help`."""

PIP = [sys.executable, "-I", "-m", "pip"]


def configured(lines: Iterable[str]) -> dict[str, str]:
    """
    Return the settings to keep of what configuration files say.

    lines
        What ``pip config list`` prints: ``global.index-url='https://...'``.

    What a file says of ``pip install`` counts before what it says of all commands.
    """
    found: dict[str, dict[str, str]] = {"global": {}, "install": {}}
    for line in lines:
        place, _, value = line.strip().partition("=")
        section, _, name = place.partition(".")
        if section in found and name in KEPT:
            found[section][name] = str(ast.literal_eval(value))
    return found["global"] | found["install"]


def variable(name: str) -> str:
    """Return the variable that tells pip a setting. Source: pip's page "Configuration"."""
    return "PIP_" + name.upper().replace("-", "_")


def environment(given: Mapping[str, str], lines: Iterable[str]) -> dict[str, str]:
    """Return what pip is to run with: a user's variables, and of pip's own those to keep."""
    kept = {variable(name): value for name, value in configured(lines).items()}
    ours = {variable(name) for name in KEPT}
    kept |= {key: value for key, value in given.items() if key in ours and value}
    rest = {key: value for key, value in given.items() if not key.startswith("PIP_")}
    own = {"PIP_CONFIG_FILE": os.devnull, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    return {"PIP_RETRIES": "2", **rest, **kept, **own}


def main() -> None:
    """Become pip."""
    told = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith("PIP_") or key == "PIP_CONFIG_FILE"
    }
    # Some settings of a file would keep pip from so much as listing it: another Python to run on, a
    # log that cannot be written, to read no file; and `pip config` takes user for the user's file
    # alone. The environment has the last word.
    told |= {"PIP_PYTHON": sys.executable, "PIP_LOG": os.devnull}
    told |= dict.fromkeys(("PIP_ISOLATED", "PIP_USER", "PIP_GLOBAL", "PIP_SITE"), "0")
    said = subprocess.run([*PIP, "config", "list"], env=told, stdout=subprocess.PIPE, text=True)
    os.execve(PIP[0], [*PIP, *sys.argv[1:]], environment(os.environ, said.stdout.splitlines()))


if __name__ == "__main__":
    main()
