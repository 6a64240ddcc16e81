"""
What the SLS files make of a pillar: every text of it arrives as it was, and every state has an ID.

Salt renders them here, and applies each of them by itself; nothing is made.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import _qemulab_pillar_spec as spec
import pytest
from _qemulab_pillar_kinds import SpecError
from hypothesis import given
from hypothesis import strategies as st

pytestmark = [pytest.mark.needs_root, pytest.mark.needs("unshare")]

FUNCTIONAL = Path(__file__).parent

WORDS = [
    *("123", "010", "1-1", "12-30", "2001-01-01", "0x1f", "0b1", "1e3", "0o7", "1", "0", "00"),
    *("on", "off", "yes", "no", "y", "n", "true", "false", "null", "nan", "inf", "default", "none"),
    *("lab", "lab-present", "lab-declared", "lab-guest", "lab-absent", "lab-packages", "a-b", "a"),
    *("b-c", "c", "b", "lab-vm-a", "lab-network-a", "name", "require", "order", "include", "state"),
]
"""Names that YAML or Salt might take for something else, and names that run together."""
NAMES = st.sampled_from(WORDS) | st.from_regex("[a-z0-9]([a-z0-9-]{0,8}[a-z0-9])?", fullmatch=True)
TEXTS = st.text(max_size=12) | st.sampled_from(["\x85", "\u2028", "\U0001f600", "{{ 1 }}", "%"])
TREE = ("lab.declared", "lab.packages", "lab.present", "lab.guest", "lab.network", "lab.vms")
TREE = (*TREE, "lab.pruned")
"""What ``lab`` includes."""
MAC = "52:54:00:00:00:01"
OWN = {"name", "lab", "require", "order", "require_in"}
"""What a state is given that is no key of the pillar."""


def ask(process: subprocess.Popen[str], pillar: Any, sls: str = "") -> Any:
    """Return every SLS file as rendered for a pillar, or what applying one of them came to."""
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(json.dumps([{"lab": pillar}, sls]) + "\n")
    process.stdin.flush()
    answer = process.stdout.readline()
    assert answer, "the probe has ended: its stderr says why"
    return json.loads(answer)


Rendered = Callable[..., Any]


@pytest.fixture(scope="module")
def minion() -> Iterator[Path]:
    """Return the directory of the minion that renders: its root as well, so open to all."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as directory:
        os.chmod(directory, 0o755)
        yield Path(directory)


@pytest.fixture(scope="module")
def rendered(minion: Path, repo: Path) -> Iterator[Rendered]:
    """Give ``ask`` with its first argument: a minion that answers, with no network but ``lo``."""
    cache = f"pycache_prefix={Path(sys.prefix) / 'var/pycache'}"
    run = "import sys; sys.path.insert(0, sys.argv.pop(1)); import sls_probe as probe; "
    run += "probe.main(*sys.argv[1:])"
    with subprocess.Popen(
        [
            "unshare",
            "--net",
            sys.executable,
            "-I",
            "-X",
            cache,
            "-c",
            run,
            str(FUNCTIONAL),
            str(minion),
            str(repo),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd="/",
    ) as process:
        yield functools.partial(ask, process)
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close() if process.stdin else None


@st.composite
def pillars(draw: st.DrawFn) -> dict[str, Any]:
    """Return a pillar with names, paths and keys as people might write them."""
    networks = {}
    for number, name in enumerate(draw(st.lists(NAMES, min_size=1, max_size=2, unique=True))):
        reserved = draw(st.lists(NAMES, max_size=2, unique=True))
        networks[name] = {
            "address": f"10.0.{number + 3}.1/24",
            "interface": f"tap{number}",
            "reservations": {
                each: {
                    "mac": f"52:54:00:00:0{number}:0{index}",
                    "address": f"10.0.{number + 3}.{index + 9}",
                }
                for index, each in enumerate(reserved)
            },
        }
    vms = {
        name: {
            "boot": "guest",
            "cdrom": f"/srv/{draw(TEXTS)}.iso",
            "nics": [],
            "disks": [{"name": each} for each in draw(st.lists(NAMES, max_size=2, unique=True))],
        }
        for name in draw(st.lists(NAMES, max_size=3, unique=True))
    }
    keys = draw(st.lists(st.builds("ssh-ed25519 AAAA {}".format, TEXTS), max_size=1))
    return {"name": draw(NAMES), "networks": networks, "vms": vms, "authorized_keys": keys}


def arguments(state: dict[str, Any]) -> dict[str, Any]:
    """Return what a state is given, by key."""
    ((_, given_to),) = state.items()
    return {key: value for item in given_to for key, value in item.items()}


def by_function(rendered: dict[str, Any], *sls: str) -> dict[str, dict[str, Any]]:
    """Return the states of some SLS files by ID, each with its function; every ID is there once."""
    found: dict[str, dict[str, Any]] = {}
    for each in sls:
        for identity, state in rendered[each].items():
            if identity != "include":
                assert isinstance(identity, str) and identity not in found
                found[identity] = {"fun": next(iter(state)), **arguments(state)}
    return found


def named(states: dict[str, dict[str, Any]], fun: str) -> dict[str, dict[str, Any]]:
    """Return the states of a function, by their names."""
    return {each["name"]: each for each in states.values() if each["fun"] == f"qemulab.{fun}"}


def declared(state: dict[str, Any]) -> dict[str, Any]:
    """Return what a state declares of its thing."""
    return {key: value for key, value in state.items() if key not in {*OWN, "fun"}}


def hold_one_meaning(states: dict[str, dict[str, Any]]) -> None:
    """Hold that each requisite by ID means one state, although Salt takes names as well."""
    for state in states.values():
        for item in state.get("require", []):
            ((kind, what),) = item.items()
            meant = [i for i, other in states.items() if what in (i, other.get("name", i))]
            assert kind == "sls" or len(meant) == 1


def test_every_text_of_a_pillar_survives_its_way_through_the_sls_files(
    rendered: Rendered, minion: Path
) -> None:
    """Names of all kinds, paths, keys: what a state gets is what was declared, and means it."""

    accepted = []

    @given(pillars())
    def holds(pillar: dict[str, Any]) -> None:
        try:
            lab = spec.from_pillar(pillar).lab
        except SpecError:
            return
        accepted.append(lab.name)
        for kind, names in (("vms", lab.vms), ("networks", lab.networks)):
            for name in names:  # as if it had been made, for lab.clean
                path = minion / f"var/lib/qemulab/{lab.name}/{kind}/{name}/{kind[:-1]}.json"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch()
        try:
            answer = rendered(pillar)
        finally:
            # Whatever ends this: to the next test they would be the damaged files of its own lab.
            shutil.rmtree(minion / "var/lib/qemulab", ignore_errors=True)
        states = by_function(answer, *(name for name in answer if name in TREE))
        hold_one_meaning(states)
        assert all(each.get("lab", lab.name) == lab.name for each in states.values())
        vms, networks = named(states, "vm_running"), named(states, "network_present")
        assert list(vms) == list(lab.vms) and list(networks) == list(lab.networks)
        for name, vm in lab.vms.items():
            assert spec.vm_from(name, declared(vms[name]), lab.name, lab.networks) == vm
        for name, network in lab.networks.items():
            items = network.reservations.items()
            again = spec.network_from(name, declared(networks[name]), lab.name)
            assert again.interface == network.interface and again.dhcp == network.dhcp
            assert {
                (each["network"], each["name"], each["mac"])
                for each in states.values()
                if each["fun"].endswith("reservation_present")
            } >= {(name, host, item.mac) for host, item in items}
        assert states["lab-pruned"]["vms"] == list(lab.vms)
        assert states["lab-present"]["authorized_keys"] == list(lab.authorized_keys)
        clean = by_function(answer, "lab.clean")
        hold_one_meaning(clean)
        assert set(lab.vms) <= set(named(clean, "vm_absent"))
        assert set(lab.networks) <= set(named(clean, "network_absent"))

    holds()
    assert len(accepted) > 20


ALONE = {"networks": {"vmlan": {"reservations": {"a": {"mac": MAC, "address": "10.0.3.9"}}}}}
SLS = sorted(path.stem for path in (FUNCTIONAL.parent.parent / "salt/lab").glob("*.sls"))


@pytest.mark.parametrize("sls", SLS)
@pytest.mark.parametrize("vms", [{}, {"a": {}, "b": {"boot": "disk"}}], ids=["network", "machines"])
def test_every_sls_file_is_applied_by_itself(rendered: Rendered, sls: str, vms: Any) -> None:
    """Salt compiles it with what it requires, whatever of the lab is there or not."""
    states = rendered({**ALONE, "vms": vms}, f"lab.{sls}".removesuffix(".init"))
    assert isinstance(states, dict), states
    failed = [state["comment"] for state in states.values() if state["result"] is False]
    assert states and not failed


def test_names_that_yaml_takes_for_numbers_and_words_stay_names(rendered: Rendered) -> None:
    """Each as a machine's, in what Salt itself made of the SLS files."""
    states = rendered({"vms": {name: {"nics": []} for name in WORDS}}, "lab")
    made = [state["name"] for tag, state in states.items() if tag.endswith("_|-vm_running")]
    assert sorted(made) == sorted(WORDS)
    # The state that checks the pillar has seen it as well.
    declared = states["qemulab_|-lab-declared_|-lab-declared_|-declared"]
    assert declared["comment"].startswith("the declaration is without fault")
