"""
Requisites and the other options that every state takes, on states of qemulab in a user's SLS.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import harness
import labs
import pytest
from harness import REPO
from labs import Lab
from labs import blank_disc
from labs import tiny

pytestmark = [
    pytest.mark.needs_root,
    pytest.mark.needs("qemu-system-x86_64", "socat", "dnsmasq", "unshare", "nsenter"),
]

SLS = dict[str, Any]
READY = {"ready": {"qemulab.present": []}}
SUPERVISOR = "supervisor.supervisord"
QEMU = "^[^ ]*/qemu-system"
NEEDS_READY = {"require": [{"qemulab": "ready"}]}


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Give one lab for all tests of this file; each has machines of its own."""
    with harness.namespace_host(tmp_path_factory.mktemp("requisites")) as host:
        yield Lab(host)


def machine(**more: Any) -> SLS:
    """Return a state of a machine that starts at once, and stops so."""
    options = {**tiny(nics=[], disks=[{"size": "1M"}]), **NEEDS_READY, **more}
    return {"qemulab.vm_running": [{key: value} for key, value in options.items()]}


def words(lab: Lab, sls: SLS, *options: str) -> list[str]:
    """Write an SLS file and return the words that apply it."""
    tree = lab.host.shared / "tree"
    tree.mkdir(exist_ok=True)
    (tree / "own.sls").write_text(json.dumps({**READY, **sls}), encoding="utf-8")
    return ["state.apply", "own", f"--file-root={tree}", *options]


def apply(lab: Lab, sls: SLS, *options: str, check: bool = True) -> dict[str, Any]:
    """Apply an SLS file and return its states by ``function name``."""
    return labs.flat(lab.host.salt_call(*words(lab, sls, *options), check=check))


def agree(lab: Lab, sls: SLS) -> dict[str, Any]:
    """Apply as a dry run, then for real; return what both said."""
    said = lab.changes(apply(lab, sls, "test=True"))
    done = apply(lab, sls)
    assert lab.changes(done) == said
    return done


def starts(lab: Lab, name: str) -> int:
    """Return how often the supervisor has started a machine since the lab was made."""
    log = lab.host.run(["cat", "/var/log/qemulab/lab/supervisord.log"]).stdout
    return len(re.findall(f"spawned: 'vm-{name}'", log))


def processes(lab: Lab, pattern: str) -> list[str]:
    """Return the PIDs of all processes whose command line matches."""
    return lab.host.run(["pgrep", "-f", pattern], check=False).stdout.split()


def test_parallel(lab: Lab) -> None:
    """Three machines at once, even where their supervisor has to come up first."""
    names = ["p1", "p2", "p3"]
    sls = {name: machine(parallel=True) for name in names}
    done = agree(lab, sls)
    for name in names:
        assert done[f"vm_running {name}"]["changes"]["running"]["new"] is True
    # Nothing but the supervisor is missing now, and all three find that out at the same time.
    lab.host.run(["kill", *processes(lab, SUPERVISOR)])
    harness.wait_for(lambda: not processes(lab, SUPERVISOR), 10, "the supervisor's end")
    assert not processes(lab, QEMU)
    alone = {name: machine(parallel=True, require=[]) for name in names}
    agree(lab, {**alone, "ready": {"qemulab.present": [{"order": "last"}]}})
    assert len(processes(lab, SUPERVISOR)) == 1
    assert len(processes(lab, QEMU)) == 3
    assert {name: lab.call("vm_list")[name] for name in names} == dict.fromkeys(names, "running")
    assert lab.changes(apply(lab, sls)) == {}


def spawn(lab: Lab, sls: SLS, *options: str) -> harness.Command:
    """Begin to apply an SLS file."""
    return lab.host.spawn([str(REPO / "salt-call"), "--out=json", *words(lab, sls, *options)])


def answer(process: harness.Command) -> dict[str, Any]:
    """Wait for what an apply says, and return its states by ``function name``."""
    return labs.flat(json.loads(process.communicate(timeout=60)[0])["local"])


def test_concurrent(lab: Lab) -> None:
    """Two applies really at once: both are good, and the machine is started once."""
    # A port that only one can have would show a second start.
    forwarded = {"c": machine(nics=[{"network": "user", "forwards": [{"host_port": 10022}]}])}
    both = [spawn(lab, forwarded, "concurrent=True") for _ in range(2)]
    states = [answer(process) for process in both]
    assert all(state["result"] is True for each in states for state in each.values()), states
    assert any(each["vm_running c"]["changes"] for each in states)
    assert starts(lab, "c") == 1
    assert lab.changes(apply(lab, forwarded)) == {}


def test_retry(lab: Lab) -> None:
    """A machine whose ISO image comes later is started as soon as it is there."""
    iso = lab.host.shared / "later.iso"
    sls = {"r": machine(cdrom=str(iso), retry={"attempts": 9, "interval": 1})}
    process = spawn(lab, sls, "--log-level=info")
    assert process.stderr is not None
    while "will be re-run" not in (line := process.stderr.readline()):
        assert line, "it was not tried again"
    blank_disc(iso)
    state = answer(process)["vm_running r"]
    assert state["result"] is True and state["changes"]["cdrom"]["new"] == str(iso)


def test_onfail_and_require(lab: Lab) -> None:
    """What a failed machine would have been required for stays, what waits for that is done."""
    missing = str(lab.host.shared / "never.iso")
    sls = {
        "o1": machine(cdrom=missing),
        "o2": machine(require=[{"qemulab": "o1"}]),
        "o3": machine(onfail=[{"qemulab": "o1"}]),
    }
    done = apply(lab, sls, check=False)
    assert [done[f"vm_running {name}"]["result"] for name in sls] == [False, False, True]
    assert {"o3": "running"}.items() <= lab.call("vm_list").items()
    assert "o2" not in lab.call("vm_list")
    sls["o1"] = machine()
    sls["o3"] = machine(name="o4", onfail=[{"qemulab": "o1"}])
    apply(lab, sls)
    listed = lab.call("vm_list")
    assert "o2" in listed and "o4" not in listed


def network(**more: Any) -> SLS:
    """Return a state of a network."""
    options = {"address": "10.0.3.1/24", **more, **NEEDS_READY}
    return {"qemulab.network_present": [{key: value} for key, value in options.items()]}


def on_network(**more: Any) -> SLS:
    """Return a state of a machine that watches its network, and may be restarted."""
    watch = [{"qemulab": "vmlan"}]
    nics = [{"network": "vmlan"}]
    return machine(nics=nics, on_change="restart", watch=watch, **more)


def test_watch_network(lab: Lab) -> None:
    """A machine is restarted where the effect of the network's change says so, and once."""
    apply(lab, {"vmlan": network(), "w": on_network()})
    assert starts(lab, "w") == 1
    slower = {"dhcp": {"lease_time": "5m"}}
    done = agree(lab, {"vmlan": network(**slower), "w": on_network()})
    assert set(lab.changes(done)) == {"network_present vmlan"}
    assert starts(lab, "w") == 1
    moved = {**slower, "multicast": "239.1.2.3:2345"}
    done = agree(lab, {"vmlan": network(**moved), "w": on_network()})
    assert lab.changes(done) == {} and done["network_present vmlan"]["pending"]
    assert starts(lab, "w") == 1
    done = agree(lab, {"vmlan": network(**moved, on_change="restart"), "w": on_network()})
    assert set(lab.changes(done)) == {"network_present vmlan"}
    assert starts(lab, "w") == 2


def test_watch_anything_else(lab: Lab) -> None:
    """A file that a machine watches restarts it where it may be, else a warning says so."""
    path = lab.host.shared / "watched.txt"

    def sls(text: str, **more: Any) -> SLS:
        return {
            "file": {"file.managed": [{"name": str(path)}, {"contents": text}]},
            "watches": machine(watch=[{"file": "file"}], **more),
            "listens": machine(listen=[{"file": "file"}], on_change="restart"),
        }

    apply(lab, sls("1"))
    state = agree(lab, sls("2"))["vm_running watches"]
    assert state["changes"] == {} and f"file {path} changed" in str(state["warnings"])
    assert starts(lab, "watches") == 1
    apply(lab, sls("2", on_change="restart"))
    done = agree(lab, sls("3", on_change="restart"))
    restart = {"watch": {"old": None, "new": f"file {path}", "effect": "restart"}}
    assert done["vm_running watches"]["changes"] == restart
    assert starts(lab, "watches") == 2 and starts(lab, "listens") == 1
    assert lab.call("vm_list")["watches"] == "running"


def test_one_that_requires_another_is_stopped_after_it(lab: Lab) -> None:
    """Its power button is pressed only then; otherwise all of a row hear theirs at once."""
    grace = 4
    names = ("s1", "s2")
    for between in ([], [{"require": [{"qemulab": "s1"}]}]):
        apply(lab, {name: machine(stop_grace=grace) for name in names})
        sls: SLS = {"s1": {"qemulab.vm_stopped": []}, "s2": {"qemulab.vm_stopped": between}}
        done = agree(lab, sls)
        first, second = (done[f"vm_stopped {name}"]["duration"] / 1000 for name in names)
        assert first >= grace
        assert (second >= grace) is bool(between)
