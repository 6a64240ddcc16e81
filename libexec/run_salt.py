"""
Runs a Salt's salt-call, with what Salt says of a pillar or a name that is wrong made short.

The first argument is the salt-call; all others are its own.
"""

from __future__ import annotations

import difflib
import importlib
import logging
import re
import runpy
import sys
import warnings
from collections.abc import Callable
from collections.abc import Mapping
from pathlib import Path
from typing import Any

PILLAR = "salt.pillar"
TEMPLATES = (PILLAR, "salt.template", "salt.utils.templates")
"""The loggers that tell of a pillar that is no YAML."""


def brief(record: logging.LogRecord) -> bool:
    """Take Salt's own call stack from what it says of a pillar, and add the line that is wrong."""
    error = record.exc_info[1] if record.exc_info else None
    number = getattr(error, "line_num", None)
    said = record.getMessage()
    if record.name == PILLAR and isinstance(number, int) and not re.search(r"\bline \d", said):
        record.msg, record.args = f"{said}: {place(number, said)}".replace("%", "%%"), ()
    if not logging.getLogger().isEnabledFor(logging.DEBUG):
        record.exc_info = None
    return True


def place(number: int, said: str) -> str:
    """Return a line of the pillar, or of what it includes, as a user finds it."""
    folder = next(word for word in sys.argv if word.startswith("--config-dir=")).partition("=")[2]
    pillar = Path(folder, "pillar", "qemulab.sls")
    named = re.search(r"SLS '([^']+)'", said)
    if named and named[1] != "qemulab":
        beside = pillar.resolve().parent.joinpath(*named[1].split("."))
        files = beside.with_suffix(".sls"), beside / "init.sls"
        pillar = next(filter(Path.is_file, files), beside)
    if not pillar.is_file():
        return f"line {number} of {named[1] if named else pillar}"
    lines = pillar.read_text(encoding="utf-8", errors="replace").splitlines()
    # What Jinja has made of it may have other lines.
    tab = number <= len(lines) and "\t" in lines[number - 1]
    where = f"line {number} of {pillar.resolve()}"
    return f"{where} has a tab: YAML wants blanks" if tab else where


def refuse_unknown(function: str, functions: Mapping[str, Callable[..., Any]]) -> None:
    """
    End where there is no such function, with what was probably meant.

    Salt would print the documentation of all whose names begin so; 3008 then has a KeyError.
    """
    if function in functions:
        return
    module = function.partition(".")[0]
    listed = functions["sys.list_functions"]
    known = listed(module) or listed()
    longer = [name for name in known if name.startswith(function)]
    near = longer or difflib.get_close_matches(function, known, n=1)
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    sys.exit(f"'{function}' is not available{hint}")


def check_calls() -> None:
    """Have every call checked before Salt makes it, and what Salt says of a wrong one be short."""
    caller: Any = importlib.import_module("salt.cli.caller").BaseCaller
    texts: Any = importlib.import_module("salt.utils.stringutils")
    call, show = caller.call, texts.print_cli

    def checked(self: Any) -> Any:
        function, functions = self.opts["fun"], self.minion.functions
        refuse_unknown(function, functions)
        documentation = functions[function].__doc__

        def brief_usage(text: Any, *others: Any) -> None:
            # For a wrong argument Salt prints all of a function's documentation.
            show(f"    sys.doc {function}" if text == documentation else text, *others)

        texts.print_cli = brief_usage
        return call(self)

    caller.call = checked


def main() -> None:
    """Run it."""
    # Salt, once imported, shows deprecations of its own that Python was told to ignore (-W). A user
    # can do nothing about them.
    importlib.import_module("salt._logging")
    warnings.simplefilter("ignore")
    for name in TEMPLATES:
        logging.getLogger(name).addFilter(brief)
    check_calls()
    del sys.argv[0]
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
