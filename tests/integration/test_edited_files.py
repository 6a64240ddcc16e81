"""
Generated files that a person has edited or removed: shown by the dry run, put back by the apply.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import _qemulab_host_generated as written
import harness
import pytest
from faultlab import DECLARED
from faultlab import dns_answers
from faultlab import fresh
from faultlab import kill
from faultlab import pids
from labs import Lab

pytestmark = [
    pytest.mark.needs_root,
    pytest.mark.needs("qemu-system-x86_64", "socat", "dnsmasq", "unshare", "nsenter"),
]

STATE = "/var/lib/qemulab/lab"
SYSTEMD = "/etc/systemd/system"
NETWORK = ("dnsmasq", "dnsmasq.conf", "hosts", "hub", "link", "reservations", "resolv.conf")
MACHINE = ("launch", "prepare", "powerdown")
RECORDS = ("written.json", "networks/vmlan/written.json", "vms/a/written.json")


@pytest.fixture(scope="module", params=harness.HOSTS)
def lab(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Give one lab for all tests of this file."""
    with harness.HOSTS[request.param](tmp_path_factory.mktemp("edited")) as host:
        lab = Lab(host)
        lab.apply(declared=DECLARED)
        yield lab


def own_files(lab: Lab) -> dict[str, list[str]]:
    """Return the generated files of the lab, by the state that puts them back."""
    network = f"{STATE}/networks/vmlan"
    names = [f"etc/{name}" if name == "resolv.conf" else name for name in NETWORK]
    shared = [f"{STATE}/cut-consoles", f"{STATE}/ssh/authorized_keys"]
    if lab.host.supervisor == "systemd":
        consoles = [f"{SYSTEMD}/qemulab-consoles@lab.{end}" for end in ("service", "timer")]
    else:
        consoles = [f"{STATE}/supervisord.conf", f"{STATE}/units/consoles.ini"]
    return {
        "present lab-present": [*shared, *consoles],
        "network_present vmlan": [f"{network}/{name}" for name in names],
        "vm_running a": [f"{STATE}/vms/a/{name}" for name in MACHINE],
    }


def unit_files(lab: Lab) -> dict[str, list[str]]:
    """Return what the supervisor reads of single units, by the state that puts it back."""
    if lab.host.supervisor == "systemd":
        drop_in = f"{SYSTEMD}/qemulab-{{}}@lab:{{}}.service.d/qemulab.conf"
        ends = [drop_in]
    else:
        ends = [f"{STATE}/units/{{}}-{{}}.{end}" for end in ("ini", "sh")]
    return {
        "network_present vmlan": [
            end.format(kind, "vmlan") for end in ends for kind in ("hub", "dnsmasq")
        ],
        "vm_running a": [end.format("vm", "a") for end in ends],
    }


def texts(lab: Lab, files: dict[str, list[str]]) -> dict[str, str]:
    """Return what files hold."""
    paths = [path for several in files.values() for path in several]
    return {path: lab.host.path(path).read_text(encoding="utf-8") for path in paths}


def edit(lab: Lab, path: str, text: str = "# mine\n") -> None:
    """Append to a file, as a person does."""
    with open(lab.host.path(path), "a", encoding="utf-8") as file:
        file.write(text)


def put_back(lab: Lab, expected: dict[str, dict[str, str]]) -> None:
    """
    Hold that the dry run shows what was changed, the apply says the same, and the next nothing.

    expected
        By state, how each file is.
    """
    said = lab.changes(lab.apply(declared=DECLARED, test=True))
    assert said == {
        state: {
            f"files:{name}": {"old": how, "new": "generated", "effect": "live"}
            for name, how in files.items()
        }
        for state, files in expected.items()
    }
    assert lab.changes(lab.apply(declared=DECLARED)) == said
    assert lab.changes(lab.apply(declared=DECLARED)) == {}


def test_every_edited_file_is_put_back(lab: Lab) -> None:
    """The machine runs on, and has its network."""
    files, units = own_files(lab), unit_files(lab)
    before, running = {**texts(lab, files), **texts(lab, units)}, pids(lab)
    for path in before:
        edit(lab, path)
    expected = {
        state: dict.fromkeys([Path(path).name for path in paths], "edited")
        for state, paths in files.items()
    }
    expected["network_present vmlan"]["units"] = "edited"
    expected["vm_running a"]["unit"] = "edited"
    put_back(lab, expected)
    assert {**texts(lab, files), **texts(lab, units)} == before
    assert pids(lab)["a"] == running["a"]
    harness.wait_for(lambda: dns_answers(lab), 5, "DNS")


def test_every_file_that_is_removed_is_put_back(lab: Lab) -> None:
    """Machine and hub keep their processes."""
    files = own_files(lab)
    before, running = texts(lab, files), pids(lab)
    lab.host.run(["rm", *before])
    expected = {
        state: dict.fromkeys([Path(path).name for path in paths], "absent")
        for state, paths in files.items()
    }
    put_back(lab, expected)
    assert texts(lab, files) == before
    after = pids(lab)
    assert (after["a"], after["hub vmlan"]) == (running["a"], running["hub vmlan"])


def test_what_dnsmasq_has_read_is_read_again(lab: Lab) -> None:
    """It serves by the right text, and what it has leased stays."""
    lease = "9999999999 52:54:00:00:00:77 10.0.3.77 guest *\n"
    edit(lab, f"{STATE}/networks/vmlan/dhcp/leases", lease)
    edit(lab, f"{STATE}/networks/vmlan/dnsmasq.conf", "address=/a/10.9.9.9\n")
    edit(lab, f"{STATE}/networks/vmlan/hosts", "10.0.3.99 nobody\n")
    pid = pids(lab)["dnsmasq vmlan"]
    kill(lab, pid)
    ask = ["dig", "+short", "+time=1", "+tries=1", "@10.0.3.1", "-q"]

    def answer(name: str) -> str:
        return lab.host.run([*ask, name], check=False).stdout.strip()

    harness.wait_for(lambda: answer("nobody") == "10.0.3.99", 5, "the edited files")
    put_back(lab, {"network_present vmlan": {"dnsmasq.conf": "edited", "hosts": "edited"}})
    assert answer("a") == "10.0.3.11" and answer("nobody") == ""
    assert "10.0.3.77" in [each["address"] for each in lab.call("lease_list")]
    # What it reads again by itself costs it nothing.
    pid = pids(lab)["dnsmasq vmlan"]
    edit(lab, f"{STATE}/networks/vmlan/hosts", "10.0.3.99 nobody\n")
    kill(lab, pid, "HUP")
    harness.wait_for(lambda: answer("nobody") == "10.0.3.99", 5, "the edited file")
    put_back(lab, {"network_present vmlan": {"hosts": "edited"}})
    harness.wait_for(lambda: answer("nobody") == "", 5, "the right file")
    assert pids(lab)["dnsmasq vmlan"] == pid


def test_a_hub_that_was_started_by_an_edited_script_is_started_anew(lab: Lab) -> None:
    """Its link stays."""
    path = f"{STATE}/networks/vmlan/hub"
    text = lab.host.path(path).read_text(encoding="utf-8")
    lab.host.path(path).write_text(text.replace("exec ", "exec env MINE=1 "), encoding="utf-8")
    pid = pids(lab)["hub vmlan"]
    kill(lab, pid)
    harness.wait_for(lambda: fresh(lab, "hub vmlan", pid), 5, "the hub")
    put_back(lab, {"network_present vmlan": {"hub": "edited"}})
    variables = lab.host.path(f"/proc/{pids(lab)['hub vmlan']}/environ").read_text()
    assert "MINE" not in variables


def test_a_template_of_all_machines_is_put_back(lab: Lab) -> None:
    """It is the host's, and so the state of the lab as a whole tells of it."""
    if lab.host.supervisor != "systemd":
        return
    edit(lab, f"{SYSTEMD}/qemulab-vm@.service")
    put_back(lab, {"present lab-present": {"qemulab-vm@.service": "edited"}})
    shown = lab.host.run(["systemctl", "show", "-P", "NeedDaemonReload", "qemulab-vm@lab:a"])
    assert shown.stdout.strip() == "no"


def test_a_machine_that_is_off_is_told_of_as_well(lab: Lab) -> None:
    """Its host may start it; it stays off."""
    lab.call("vm_stop", "a", "grace=0")
    paths = [f"{STATE}/vms/a/launch", unit_files(lab)["vm_running a"][0]]
    before = {path: lab.host.path(path).read_text(encoding="utf-8") for path in paths}
    for path in paths:
        edit(lab, path)

    def ensured(*words: str) -> Any:
        declaration = json.dumps(DECLARED["vms"]["a"])
        return lab.call("vm_ensure", "a", declaration, *words, declared=DECLARED)["changes"]

    said = ensured("test=True")
    assert {key: item["old"] for key, item in said.items()} == {
        "files:launch": "edited",
        "files:unit": "edited",
    }
    assert ensured() == said
    assert ensured() == {}
    for path, text in before.items():
        assert lab.host.path(path).read_text(encoding="utf-8") == text
    assert "a" not in pids(lab)
    lab.apply(declared=DECLARED)


def test_a_file_that_a_release_writes_otherwise_is_no_change(lab: Lab) -> None:
    """Neither one that has the mark of its own text, nor one that has none."""
    everything = {**texts(lab, own_files(lab)), **texts(lab, unit_files(lab))}
    records = [lab.host.path(f"{STATE}/{name}") for name in RECORDS]
    pid = pids(lab)
    for path in everything:
        edit(lab, path, "# as another release has it\n")
    for record in records:
        kept = json.loads(record.read_text(encoding="utf-8"))
        marks = {path: [written._present(lab.host.path(path))] for path in kept}
        record.write_text(json.dumps(marks), encoding="utf-8")
    assert lab.changes(lab.apply(declared=DECLARED)) == {}
    for record in records:
        record.unlink()
    assert lab.changes(lab.apply(declared=DECLARED)) == {}
    assert pids(lab) == pid
    changed = json.loads(json.dumps(DECLARED))
    changed["vms"]["a"]["stop_grace"] = 1
    keys = lab.changes(lab.apply(declared=changed))
    assert {state: set(items) for state, items in keys.items()} == {"vm_running a": {"stop_grace"}}
    edit(lab, f"{STATE}/vms/a/launch")
    put_back_keys = lab.changes(lab.apply(declared=changed))
    assert set(put_back_keys["vm_running a"]) == {"files:launch"}


@pytest.mark.parametrize("sls", ["lab.clean", "lab.purge"])
def test_nothing_is_left_of_it(lab: Lab, sls: str) -> None:
    """The records go with what they are about, and what comes back has them again."""
    lab.apply(declared=DECLARED)
    lab.apply(sls, declared=DECLARED)
    records = ["find", "/var/lib/qemulab", "-name", "written.json"]
    assert lab.host.run(records).stdout == ""
    lab.apply(declared=DECLARED)
    assert lab.changes(lab.apply(declared=DECLARED)) == {}
    found = lab.host.run(records).stdout.split()
    assert {f"{STATE}/{name}" for name in RECORDS} <= set(found)
