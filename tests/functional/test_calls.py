"""
Every public function, called as a person or YAML may call it: it answers, or says what is wrong.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import _qemulab_host_seam as host
import _qemulab_pillar_spec as spec
import pytest
from _qemulab_run_site import Site

pytestmark = [pytest.mark.needs_root, pytest.mark.needs("unshare")]

PROBE = Path(__file__).with_name("calls_probe.py")
NAMED = ("name", "network", "lab", "tag")
"""Arguments that are names: of these nothing but a text is one."""


RESERVED = {"mac": "52:54:00:00:00:01", "address": "10.0.3.9"}
STARTED = {
    key: {"old": old, "new": new, "effect": "live"}
    for key, old, new in (
        ("networks:one", "down", "up"),
        ("networks:two", "down", "up"),
        ("vms:a", "stopped", "running"),
    )
}
ASKED: list[tuple[str, dict[str, Any], Any]] = [
    (
        "network_ensure",
        {"name": "one", "declaration": {"reservations": {"m": RESERVED}}, "test": True},
        "lab:networks:one:reservations: each is a state of its own, qemulab.reservation_present",
    ),
    ("reservation_list", {}, {"one": {"m": RESERVED}, "two": {"m": RESERVED}}),
    ("reservation_list", {"network": "two"}, {"two": {"m": RESERVED}}),
    (
        "reservation_list",
        {"network": "three"},
        "network: the lab lab has no network three; it has one, two",
    ),
    (
        "lease_list",
        {"network": "three"},
        "network: the lab lab has no network three; it has one, two",
    ),
    ("vm_list", {"lab": "lab"}, {"a": "stopped"}),
    ("vm_list", {"lab": "nosuch"}, "lab: this host has no lab nosuch; it has lab"),
    ("network_list", {"lab": "nosuch"}, "lab: this host has no lab nosuch; it has lab"),
    ("lease_list", {"lab": "nosuch"}, "lab: this host has no lab nosuch; it has lab"),
    ("reservation_list", {"lab": "nosuch"}, "lab: this host has no lab nosuch; it has lab"),
    ("ssh_config", {"lab": "nosuch"}, "lab: this host has no lab nosuch; it has lab"),
    (
        "lab_start",
        {"test": True},
        {
            "changes": STARTED,
            "pending": {},
            "refused": {},
            "notes": ["a: the disk hda is made anew: it had no file"],
            "machines": [],
            "lab": "lab",
            "ssh": {},
        },
    ),
    ("vm_remove", {"name": "nobody"}, "the lab lab has no machine nobody; it has a"),
    ("vm_remove", {"name": "a", "lab": "two"}, "the lab two has no machine a; it has none"),
    (
        "vm_info",
        {"name": 7},
        "name: 7 is not text; quote what is a name for YAML as well as for the shell: \"'7'\"",
    ),
]
"""What is called with what, and what it answers or says."""


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory, repo: Path) -> dict[str, Any]:
    """Call them all on a host that has one machine, which is off, in a network namespace."""
    cache = f"pycache_prefix={Path(sys.prefix) / 'var/pycache'}"
    run = "import sys; sys.path.insert(0, sys.argv.pop(1)); import calls_probe as probe; "
    run += "probe.main(*sys.argv[1:])"
    minion = tmp_path_factory.mktemp("minion")
    site = Site("lab", str(minion))
    site.store.keep_vm("a", spec.vm_from("a", {"nics": []}, "lab", {}), None)
    for name in ("one", "two"):
        keys = {"interface": name, "reservations": {"m": RESERVED}}
        host.write_all([site.store.network_as_file(name, spec.network_from(name, keys, "lab"))])
    words = [sys.executable, "-I", "-X", cache, "-c", run, PROBE.parent]
    done = subprocess.run(
        ["unshare", "--net", *words, minion, repo],
        input=json.dumps([call[:2] for call in ASKED]),
        capture_output=True,
        text=True,
        cwd="/",
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


@pytest.fixture(scope="module")
def called(answers: dict[str, Any]) -> dict[str, dict[str, str]]:
    """Return what became of each wrong value, by function and argument."""
    return dict(answers["became"])


def test_what_is_not_there_is_said(answers: dict[str, Any]) -> None:
    """An unknown lab, network or machine is no empty answer; a name may be on two networks."""
    assert answers["said"] == [expected for _, _, expected in ASKED]


def test_no_argument_is_an_error_of_pythons(called: dict[str, dict[str, str]]) -> None:
    """Whatever its value: Salt's own two errors have a sentence, any other is a traceback."""
    broken: list[Any] = [
        (place, value, became)
        for place, outcomes in called.items()
        for value, became in outcomes.items()
        if became not in ("answered", "refused")
    ]
    assert len(called) > 60
    assert not broken


def test_nothing_but_a_text_is_a_name(called: dict[str, dict[str, str]]) -> None:
    """A number or a word of YAML's is refused, by each function; so is a path."""
    passed = [
        (place, value)
        for place, outcomes in called.items()
        for value, became in outcomes.items()
        if place.split()[1] in NAMED and value not in ("'x'", "'\\x85'") and became != "refused"
    ]
    assert not passed
