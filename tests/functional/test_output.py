"""
What a user reads of an apply, in each of Salt's forms: a first dry run, warnings, one fault.

With each Salt, since it is Salt that prints. Nothing is made.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import harness
import labs
import pytest

pytestmark = [pytest.mark.needs_root, pytest.mark.needs("unshare", "nsenter", "ip")]

EXAMPLE = harness.REPO / "pillar.example"
FORMS = ("full", "terse", "mixed")


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[harness.Host]:
    """Give a host with ``lo`` only and no lab; every apply on it is a dry run, or fails at once."""
    with harness.namespace_host(tmp_path_factory.mktemp("output")) as made:
        yield made


def printed(host: harness.Host, *words: str, pillar: Path = EXAMPLE) -> str:
    """Return what a dry run prints."""
    command = [harness.REPO / "salt-call", *words, "state.apply", "lab", "test=True"]
    env = {"QEMULAB_PILLAR": str(pillar)}
    return host.run(command, check=False, env=env, timeout=300).stdout


def test_a_first_dry_run_is_read_in_a_minute(host: harness.Host) -> None:
    """Of the example, which declares about what its three machines need: not 900 lines."""
    text = printed(host)
    assert "Failed:    0" in text
    assert len(text.splitlines()) < 500
    assert "machine:\n" not in text and "accel:\n" not in text


STRANGER = {"mac": "52:54:00:00:00:09", "address": "10.0.3.9"}
OPEN = {"network": "user", "forwards": [{"host_port": 20022, "host_address": "0.0.0.0"}]}
WARNED = {
    "networks": {"vmlan": {"reservations": {"hand": STRANGER}}},
    "vms": {"a": {"nics": [{"network": "vmlan"}, OPEN]}},
}
WARNINGS = (
    "lab:networks:vmlan:reservations:hand:mac: no NIC on network vmlan has 52:54:00:00:00:09",
    "lab:vms:a:nics:1:forwards:0:host_address: 0.0.0.0 opens the machine to the network",
)
"""What is said of it on every host, whatever else is said of one."""


@pytest.mark.parametrize("form", FORMS)
def test_warnings_are_lines_of_their_own(host: harness.Host, form: str) -> None:
    """They neither run together, nor does a state's name stick to them."""
    pillar = host.shared / "warned.sls"
    pillar.write_text(json.dumps({"lab": WARNED}), encoding="utf-8")
    text = printed(host, f"--state-output={form}", "--no-color", pillar=pillar)
    lines = [line.strip() for line in text.splitlines()]
    said = "there is more than one warning: the comment has them"
    assert text.count(said) == 1
    if form == "full":
        assert f"Warnings: {said}" in lines
        comment = lines[lines.index("Comment: the declaration is without fault") + 1 :]
        warnings = comment[: next(i for i, line in enumerate(comment) if "Started:" in line)]
        assert set(WARNINGS) <= set(warnings)
    else:
        assert lines[lines.index(said) + 1].startswith("Name: lab-declared")


def test_one_warning_is_said_as_it_is(host: harness.Host) -> None:
    """In a sentence, and the next state is on a line of its own."""
    host.run(["ip", "link", "set", "lo", "down"])
    pillar = host.shared / "pillar.sls"
    pillar.write_text("lab: {networks: {vmlan: {}}}", encoding="utf-8")
    said = "multicast: lo is down; the apply sets it up"
    text = printed(host, "--state-output=terse", pillar=pillar)
    lines = [line.strip() for line in text.splitlines()]
    host.run(["ip", "link", "set", "lo", "up"])
    assert lines[lines.index(said) + 1].startswith("Name: lab-declared")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["vm_list", "lab=none"], "this host has no lab none; it has none"),
        (["vm_remove", "none"], "the lab lab has no machine none; it has none"),
    ],
)
def test_what_is_not_there_is_an_exit_status(
    host: harness.Host, words: list[str], said: str
) -> None:
    """For a script that calls it; the reason is one line."""
    call = [harness.REPO / "salt-call", f"qemulab.{words[0]}", *words[1:]]
    done = host.run(call, check=False)
    assert done.returncode != 0
    assert said in done.stdout + done.stderr and "Traceback" not in done.stderr


def test_one_fault_of_the_host_is_one_failure(host: harness.Host) -> None:
    """Not followed by a failed requisite for each other state; in a dry run and an apply."""
    host.run(["ip", "link", "add", "vmlan", "type", "veth", "peer", "name", "end"])
    for words in (["lab", "test=True"], ["lab"], ["lab.vms"], ["lab.network", "test=True"]):
        answer = host.salt_call("state.apply", *words, pillar=EXAMPLE, check=False)
        states = labs.flat(answer)
        assert list(states) == ["declared lab-declared"] and len(answer) == 1
        state = states["declared lab-declared"]
        assert state["result"] is False
        assert "the host has an interface vmlan that is not ours" in state["comment"]
    host.run(["ip", "link", "del", "vmlan"])


LATE = """
include: [lab]
iso:
  cmd.run:
    - name: cp "DISC" /srv/late.iso
    - require_in: [qemulab: lab-declared]
"""


def test_a_fault_that_has_gone_since_is_no_success(host: harness.Host) -> None:
    """The other states are not there: whoever makes it go away in the same run applies again."""
    pillar = host.shared / "pillar.sls"
    machine = {"cdrom": "/srv/late.iso", "nics": []}
    pillar.write_text(json.dumps({"lab": {"vms": {"a": machine}}}), encoding="utf-8")
    tree = host.shared / "tree"
    tree.mkdir()
    (tree / "lab").symlink_to(harness.REPO / "salt/lab")
    disc = labs.blank_disc(host.shared / "disc.iso")
    (tree / "late.sls").write_text(LATE.replace("DISC", str(disc)), encoding="utf-8")
    words = (f"--file-root={tree}", "state.apply", "late")
    state = labs.flat(host.salt_call(*words, pillar=pillar, check=False))["declared lab-declared"]
    assert state["result"] is False
    assert state["comment"].splitlines() == [
        "lab:vms:a:cdrom: /srv/late.iso cannot be used: No such file or directory",
        "this was in the way when the states were rendered, and is no more: apply again",
    ]
    # Now that it is there, all of it is.
    states = labs.flat(host.salt_call(*words, "test=True", pillar=pillar))
    assert states["vm_running a"]["result"] is None
