"""
Write the tables of ``docs/pillar.md`` anew, from the keys that the code declares.

    .venv/bin/python docs/pillar_table.py            writes docs/pillar.md
    .venv/bin/python docs/pillar_table.py --check    only says whether it would
"""

from __future__ import annotations

import dataclasses
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.dont_write_bytecode = True
CHECKOUT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(CHECKOUT / "_modules"))

import _qemulab_pillar_keys as keys  # noqa: E402

TABLE = re.compile(r"(<!-- table: (\S+) -->\n\n).*?(<!-- end -->)", re.DOTALL)
HEADER = "| key | type | unit | default | effect | meaning |\n|---|---|---|---|---|---|\n"


def walk(cls: type[Any], path: str) -> Iterator[tuple[str, str]]:
    """Yield every table with the path of what it is about: one for each dataclass."""
    yield path, HEADER + "".join(row(item, path) for item in dataclasses.fields(cls))
    for item in dataclasses.fields(cls):
        if item.metadata["of"] is not None:
            yield from walk(item.metadata["of"], inner(item, path))


def inner(item: dataclasses.Field[Any], path: str) -> str:
    """Return the path of what lies inside a key: by position, by name, or the key itself."""
    kind = item.metadata["kind"].name
    end = ":N" if kind.startswith("list") else ":NAME" if kind.startswith("mapping of") else ""
    return f"{path}:{item.name}{end}"


def row(item: dataclasses.Field[Any], path: str) -> str:
    """Return the row of one key."""
    meta = item.metadata
    default = meta["default_text"] or f"`{shown(item.default)}`"
    cells = [
        f"`{path}:{item.name}`",
        meta["kind"].name,
        meta["unit"] or "–",
        default,
        f"`{meta['effect']}`" if meta["effect"] else "–",
        meta["doc"],
    ]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n"


def shown(value: Any) -> str:
    """Return a default as YAML has it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def main() -> int:
    """Write the file, or with ``--check`` return 1 where it would change."""
    page = CHECKOUT / "docs/pillar.md"
    before = page.read_text(encoding="utf-8")
    tables = dict(walk(keys.Lab, "lab"))
    named = [match[2] for match in TABLE.finditer(before)]
    if sorted(named) != sorted(tables):
        print(f"{page} has tables for {named}, and should for {list(tables)}", file=sys.stderr)
        return 1
    after = TABLE.sub(lambda match: f"{match[1]}{tables[match[2]]}\n{match[3]}", before)
    if "--check" in sys.argv[1:]:
        return int(after != before)
    page.write_text(after, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
