"""
Call every function of qemulab with arguments that are none, and print what became of each as JSON;
then those calls that come in as JSON, with what each said.

Run by ``test_calls.py`` in a Python of its own, which has Salt. Whatever takes ``test`` is told to
only look.
"""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import salt.loader
from loader_probe import options
from salt.exceptions import CommandExecutionError
from salt.exceptions import SaltInvocationError

WRONG: list[Any] = [
    7,
    0,
    True,
    1.5,
    "",
    "../x",
    "a b",
    "\x85",
    [],
    ["a"],
    {},
    {"a": 1},
    {7: 7},
    "x",
]
"""What a person, or YAML, may have handed over."""
GOOD: dict[str, Any] = {"name": "a", "network": "vmlan", "tag": "t", "vms": [], "networks": []}


def outcome(function: Callable[..., Any], arguments: dict[str, Any]) -> str:
    """Return what a call came to in one word, with the error where it is none of Salt's two."""
    try:
        function(**arguments)
    except (CommandExecutionError, SaltInvocationError):
        return "refused"
    except Exception as err:
        return f"{type(err).__name__}: {err}"
    return "answered"


def answer(function: Callable[..., Any], arguments: dict[str, Any]) -> Any:
    """Return what a call answers, or the text of its error."""
    try:
        return function(**arguments)
    except (CommandExecutionError, SaltInvocationError) as err:
        return str(err)


def main(directory: str, checkout: str) -> None:
    """Print, for each function and argument, what became of each wrong value."""
    opts = options(Path(directory), Path(checkout))
    opts["qemulab.root"] = directory
    opts["test"] = True
    functions = salt.loader.minion_mods(opts, utils=salt.loader.utils(opts))
    found: dict[str, dict[str, str]] = {}
    for name in sorted(name for name in functions if name.startswith("qemulab.")):
        parameters = inspect.signature(functions[name]).parameters
        base = {key: value for key, value in GOOD.items() if key in parameters}
        base |= {"test": True} if "test" in parameters else {}
        for key in parameters:
            if key != "test":
                outcomes = {
                    repr(wrong): outcome(functions[name], {**base, key: wrong}) for wrong in WRONG
                }
                found[f"{name} {key}"] = outcomes
    said = [answer(functions[f"qemulab.{name}"], keys) for name, keys in json.load(sys.stdin)]
    json.dump({"became": found, "said": said}, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
