"""
Measure ``state.apply lab`` against the recipe's commands as a shell script, and print a table.

Started by ``bench/bench``. Each measurement is one run of ``inside.py`` in a throw-away host.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(CHECKOUT / "tests/integration"))
import harness  # noqa: E402  the tests' throw-away hosts

WORK = CHECKOUT / ".venv/var/bench"
PILLAR = WORK / "pillar.sls"
ROOT = WORK / "root"
"""Where the guest image is built, and kept for the next run."""

ROUND_TIMEOUT = 600.0
QMP_GOAL = 1.5
SSH_GOAL = 1.2
NO_OP_GOAL = 50.0

Row = tuple[str, str, str, str, str, str]


class Failure(Exception):
    """The measurement itself failed."""


def say(text: str) -> None:
    """Tell what goes on, on standard error."""
    print(f"bench: {text}", file=sys.stderr, flush=True)


def salt_call(*words: str) -> Any:
    """Return what ``./salt-call`` answers on the host itself, with nothing but files of ours."""
    env = dict(os.environ, QEMULAB_PILLAR=str(PILLAR), QEMULAB_ROOT=str(ROOT))
    argv = [str(CHECKOUT / "salt-call"), "--out=json", *words]
    done = subprocess.run(argv, env=env, stdout=subprocess.PIPE, text=True, check=False)
    try:
        answer = json.loads(done.stdout)["local"]
    except (ValueError, KeyError) as err:
        raise Failure(f"salt-call {' '.join(words)}: {done.stdout}") from err
    if done.returncode != 0:
        raise Failure(f"salt-call {' '.join(words)}: {answer}")
    return answer


# What both sides need


def prepare() -> dict[str, str]:
    """
    Have packages, guest image, SSH key and byte code ready, and return the script's variables.
    """
    WORK.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(CHECKOUT / "pillar.example", PILLAR)
    missing = salt_call("qemulab.missing_packages")
    if missing:
        words = f"{', '.join(missing)} are missing: ./salt-call state.apply lab.packages"
        raise Failure(words)
    salt_call("qemulab.guest_ensure")
    salt_call("state.apply", "lab", "test=True")
    key = WORK / "key"
    if not key.exists():
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    return {**surroundings(salt_call("qemulab.vm_argv", "master")["argv"]), **recipe_files()}


def recipe_files() -> dict[str, str]:
    """Return the script's variables that do not depend on the host."""
    return {
        "GUEST": "/var/lib/qemulab/guest",
        "AUTHORIZED_KEYS": f"{WORK / 'key'}.pub",
        "HOST_KEY": str(
            WORK / "key"
        ),  # which one does not matter: the lab's are made beforehand too
        "QEMULAB_PILLAR": str(PILLAR),
        "QEMULAB_PROGRESS": "0",
    }


def surroundings(argv: list[str]) -> dict[str, str]:
    """Return what qemulab found on this host, so that the script's machines get the same."""
    values = dict(zip(argv, argv[1:], strict=False))
    found = {"ACCEL": values["-accel"], "KERNEL_ARGUMENTS": values["-append"]}
    for word in argv:
        if '"uefi-code"' in word:
            code = Path(json.loads(word)["file"]["filename"])
            name = code.name.replace("CODE", "VARS").replace("code", "vars")
            found["OVMF_CODE"] = str(code)
            found["OVMF_VARS"] = str(code.with_name(name))
    return found


# Rounds


def measure(
    what: str, supervisor: str, env: dict[str, str], options: argparse.Namespace
) -> dict[str, Any]:
    """Return one measurement: ``what`` is ``script`` or ``salt``."""
    place = Path(tempfile.mkdtemp(prefix="round-", dir=WORK))
    task = {
        "what": what,
        "checkout": str(CHECKOUT),
        "state": None if options.tmpfs else str(place),
        "guest": str(ROOT / "var/lib/qemulab/guest"),
        "key": str(WORK / "key"),
        "env": env,
        "ssh": not options.without_ssh,
        "no_ops": options.no_ops,
    }
    python = [sys.executable, "-I", "-X", f"pycache_prefix={CHECKOUT / '.venv/var/pycache'}"]
    argv = [*python, str(CHECKOUT / "bench/inside.py")]
    try:
        with harness.HOSTS[supervisor](place) as host:
            done = host.run(argv, stdin=json.dumps(task), timeout=ROUND_TIMEOUT)
    except harness.HostFailure as err:
        raise Failure(f"the measurement of the {what} failed: {err}") from err
    finally:
        shutil.rmtree(place, ignore_errors=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def one_round(
    number: int, supervisor: str, env: dict[str, str], options: argparse.Namespace
) -> dict[str, Any]:
    """Return a pair of measurements; every other round begins with the other one."""
    order = ("script", "salt") if number % 2 == 0 else ("salt", "script")
    found = {what: measure(what, supervisor, env, options) for what in order}
    script, salt = found["script"], found["salt"]
    words = [f"QMP {script['qmp']:.3f} s and {salt['qmp'] - salt['ping']:.3f} s"]
    if not options.without_ssh:
        words.append(f"SSH {script['ssh']:.1f} s and {salt['ssh']:.1f} s")
    words.append(f"no-op {statistics.median(salt['no_op']):.0f} ms")
    say(f"{supervisor}, round {number + 1} of {options.rounds}: {', '.join(words)}")
    return found


# What is printed


def verdict(met: bool) -> str:
    """Return in a word whether a goal is met."""
    return "yes" if met else "no"


def pairs(name: str, script: list[float], salt: list[float], goal: float, digits: int) -> list[Row]:
    """Return the rows of a figure that both sides have."""
    ratios = [b / a for a, b in zip(script, salt, strict=True)]
    ratio = statistics.median(ratios)
    spread = f"{min(ratios):.2f}-{max(ratios):.2f}"
    left = f"{statistics.median(script):.{digits}f} s"
    right = f"{statistics.median(salt):.{digits}f} s"
    goal_text = f"<= {goal:g} x" if goal else ""
    met = verdict(ratio <= goal) if goal else ""
    return [(name, left, right, f"{ratio:.2f} x ({spread})", goal_text, met)]


def rows(rounds: list[dict[str, Any]], with_ssh: bool) -> list[Row]:
    """Return the table's rows, in the columns of ``HEAD``."""
    script = [each["script"] for each in rounds]
    salt = [each["salt"] for each in rounds]
    pings = [each["ping"] for each in salt]
    table: list[Row] = []
    for key, name, goal in (
        ("qmp", "until all three answer QMP", QMP_GOAL),
        ("end", "until the command returns", 0.0),
    ):
        less = [each[key] - each["ping"] for each in salt]
        table += pairs(name, [each[key] for each in script], less, goal, 3)
    if with_ssh:
        name = "until all three answer SSH, with Salt's start"
        table += pairs(name, [s["ssh"] for s in script], [s["ssh"] for s in salt], SSH_GOAL, 1)
    no_ops = [value for each in salt for value in each["no_op"]]
    for name, value in (("median", statistics.median(no_ops)), ("maximum", max(no_ops))):
        label = f'"Total run time" of a no-op, {name} of {len(no_ops)}'
        met = verdict(value <= NO_OP_GOAL)
        table.append((label, "", f"{value:.1f} ms", "", f"<= {NO_OP_GOAL:g} ms", met))
    start = f"{statistics.median(pings):.3f} s"
    table.append(("Salt's own start (test.ping), taken out above", "", start, "", "", ""))
    nothing = [each["nothing"] - each["ping"] for each in salt]
    alone = [each["alone"] for each in salt]
    least = [sum(both) for both in zip(nothing, alone, strict=True)]
    for name, values in (
        ("state.apply of one test.nop, in the figures above", nothing),
        ("the supervisor alone, all made: until QMP", alone),
        ("the least there can be: these two", least),
    ):
        table += pairs(name, [each["qmp"] for each in script], values, 0.0, 3)
    return table


def facts(versions: dict[str, Any], env: dict[str, str], options: argparse.Namespace) -> list[str]:
    """Return the lines that say what was measured, on what."""
    found = [f"{name} {versions[name]}" for name in ("qemulab", "salt", "qemu", "socat", "dnsmasq")]
    where = "tmpfs" if options.tmpfs else "the checkout's file system"
    return [
        f"{options.rounds} round(s) of both, in turn, each in a throw-away host of its own",
        f"versions: {', '.join(found)}, Python {platform.python_version()}",
        f"host: Linux {platform.release()}, {os.cpu_count()} CPUs, {env['ACCEL']}",
        f"files on {where}",
        "three machines of pillar.example: OVMF, 2 CPUs, 2048 MB, built-in guest; nothing of the "
        "lab before, not even the user qemulab",
    ]


HEAD: Row = ("", "script", "state.apply lab", "ratio (range)", "goal", "met")


def plain(lines: list[str], tables: dict[str, list[Row]]) -> str:
    """Return the tables for a terminal."""
    every = [HEAD, *(row for table in tables.values() for row in table)]
    widths = [max(len(row[column]) for row in every) for column in range(len(HEAD))]
    text = list(lines)
    for supervisor, table in tables.items():
        text += ["", f"Under {supervisor}:", ""]
        for row in [HEAD, *table]:
            cells = [row[0].ljust(widths[0])]
            cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
            text.append("  ".join(cells).rstrip())
    return "\n".join(text) + "\n"


def markdown(lines: list[str], tables: dict[str, list[Row]]) -> str:
    """Return the tables as a page for docs/."""
    text = ["# Measured: speed", "", "Written by `bench/bench --markdown`.", ""]
    text += [f"- {line}" for line in lines]
    for supervisor, table in tables.items():
        text += ["", f"## Under {supervisor}", "", "| " + " | ".join(HEAD) + " |"]
        text += ["| --- " + "| ---: " * 4 + "| --- |"]
        text += ["| " + " | ".join(row) + " |" for row in table]
    return "\n".join(text) + "\n"


def arguments() -> argparse.Namespace:
    """Return the command line, read."""
    parser = argparse.ArgumentParser(prog="bench/bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="pairs of measurements (5)")
    parser.add_argument("--no-ops", type=int, default=5, help="no-op applies in each round (5)")
    parser.add_argument("--quick", action="store_true", help="one round")
    what = "measure under this one only (both)"
    parser.add_argument("--supervisor", action="append", choices=list(harness.HOSTS), help=what)
    parser.add_argument("--without-ssh", action="store_true", help="do not wait for the guests")
    parser.add_argument("--tmpfs", action="store_true", help="keep the lab's files in memory")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table there too")
    options = parser.parse_args()
    if options.quick:
        options.rounds = 1
    if options.rounds < 1 or options.no_ops < 1:
        parser.error("--rounds and --no-ops begin at 1")
    return options


def main() -> int:
    """Measure and print; the exit status says whether the measurement itself went well."""
    options = arguments()
    tables = {}
    try:
        env = prepare()
        for supervisor in options.supervisor or harness.HOSTS:
            numbers = range(options.rounds)
            rounds = [one_round(number, supervisor, env, options) for number in numbers]
            tables[supervisor] = rows(rounds, not options.without_ssh)
        lines = facts(salt_call("qemulab.version"), env, options)
    except (Failure, OSError, subprocess.SubprocessError) as err:
        say(str(err))
        return 1
    sys.stdout.write(plain(lines, tables))
    if options.markdown:
        options.markdown.write_text(markdown(lines, tables), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
