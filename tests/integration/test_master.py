"""
A Salt master declares the lab: real master, real minion, nothing but Salt's usual configuration.

Once with the checkout in ``file_roots`` on a host with systemd, once by gitfs on one without.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Callable
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import harness
import labs
import pytest
from harness import REPO
from labs import tiny
from masters import ENVIRONMENT
from masters import MINION
from masters import PATIENT
from masters import PROGRAMS
from masters import Salted

pytestmark = [
    pytest.mark.needs_root,
    pytest.mark.needs("qemu-system-x86_64", "socat", "dnsmasq", "unshare", "nsenter", "git"),
]

LAB = {
    "networks": {
        "vmlan": {"reservations": {"a": {"mac": "52:54:00:00:00:01", "address": "10.0.3.11"}}}
    },
    "vms": {
        "a": tiny(disks=[{"size": "1M"}], nics=[{"network": "vmlan"}]),
        "b": tiny(nics=[]),
    },
}


@pytest.fixture(
    scope="module",
    params=["file_roots", "gitfs"],
    ids=["file_roots-systemd", "gitfs-supervisord"],
)
def salted(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Salted]:
    """Give a master and a minion that know of the lab by their configuration only."""
    shared = tmp_path_factory.mktemp(request.param)
    make = {"file_roots": harness.systemd_host, "gitfs": harness.namespace_host}[request.param]
    with make(shared) as host:
        salted = Salted(host)
        if request.param == "file_roots":
            salted.configure("master", "qemulab")
        else:
            origin = make_origin(shared)
            url = {"https://git.example.org/qemulab.git": f"file://{origin}"}
            salted.configure("master", "qemulab-gitfs", url)
            salted.have_gitpython()
        salted.declare(LAB)
        salted.write("/srv/salt/top.sls", {"base": {MINION: ["lab"]}})
        salted.start("master", "minion")
        yield salted


def make_origin(shared: Path) -> Path:
    """Commit the checkout as it stands, with what is not committed yet, and return where."""
    origin = shared / "origin"
    make = """
        set -e
        mkdir "$2" && cd "$1"
        tar -c --exclude=./.git --exclude=./.venv . | tar -x -C "$2"
        cd "$2" && git init -q -b main && git config user.name x && git config user.email x@x
        git add -A && git commit -q -m x"""
    subprocess.run(["bash", "-c", make, "make", REPO, origin], check=True)
    return origin


def changes(states: Any) -> dict[str, Any]:
    """Return what an apply changed, or would change; every state of it must be good."""
    flat = labs.flat(states)
    assert all(state["result"] is not False for state in flat.values()), flat
    return {name: state["changes"] for name, state in flat.items() if state["changes"]}


def test_file_server(salted: Salted) -> None:
    """It offers the SLS files and all modules, those that modules share as well, and no more."""
    ours = [*REPO.glob("_*/*.py"), *REPO.glob("salt/lab/*")]
    wanted = {path.relative_to(REPO).as_posix().removeprefix("salt/") for path in ours}
    assert set(salted.salt("cp.list_master")) == wanted | {"top.sls"}
    paths = ["lab/init.sls", "tests/conftest.py", ".git/HEAD", "salt-call", "../pillar.example"]
    urls = json.dumps([f"salt://{path}" for path in paths])
    offered, *others = salted.salt("cp.cache_files", urls)
    assert offered.endswith("/lab/init.sls") and not any(others)


def test_apply(salted: Salted) -> None:
    """Sync, dry run, apply, highstate: the dry run tells it, the apply does it, that is all."""
    synced = salted.salt("saltutil.sync_all")
    for kind in ("modules", "states"):
        files = {f"{kind}.{path.stem}" for path in REPO.glob(f"_{kind}/*.py")}
        assert set(synced[kind]) == files
    said = changes(salted.salt("state.apply", "lab", "test=True"))
    assert {"vm_running a", "vm_running b", "network_present vmlan"} <= set(said)
    assert salted.host.run(["id", "qemulab"], check=False).returncode != 0
    with events(salted) as heard:
        assert changes(salted.salt("state.apply", "lab")) == said
        harness.wait_for(lambda: by_effect(said) == heard(), 60, "the events of all changes")
    assert salted.salt("qemulab.vm_list") == {"a": "running", "b": "running"}
    before = salted.pids()
    # Hub, dnsmasq and two machines; what cuts their consoles' logs runs where no timer starts it.
    assert len(before) == (4 if salted.host.supervisor == "systemd" else 5)
    states = salted.salt("state.apply")
    assert "network_present vmlan" in labs.flat(states)
    assert changes(states) == {}
    assert salted.pids() == before


@contextlib.contextmanager
def events(salted: Salted) -> Iterator[Callable[[], dict[str, Any]]]:
    """Listen as an admin does; give what returns the changes of all events by their tags."""
    path = salted.host.shared / "events"
    listen = ["sh", "-c", """exec "$0" state.event 'salt/qemulab/*' > "$1" """]
    process = salted.host.spawn([*listen, f"{PROGRAMS}/salt-run", str(path)], env=ENVIRONMENT)

    def read() -> dict[str, Any]:
        lines = [line.split("\t", 1) for line in path.read_text().splitlines() if "\t" in line]
        return {tag: json.loads(data)["data"] for tag, data in lines}

    def ready() -> bool:
        salted.salt("event.send", "salt/qemulab/hello")
        return "salt/qemulab/hello" in read()

    try:
        harness.wait_for(ready, 60, "an event that is heard")
        yield lambda: {tag: data["changes"] for tag, data in read().items() if "changes" in data}
    finally:
        process.kill()
        process.communicate()


def by_effect(changed: dict[str, Any]) -> dict[str, Any]:
    """Return what an apply changed by the tags of the events that tell of it."""
    things = {"present": "lab", "network_present": "network:", "vm_running": "vm:"}
    things["reservation_present"] = "reservation:"
    found: dict[str, Any] = {}
    for state, keys in changed.items():
        function, name = state.split(" ", 1)
        thing = things[function] + (name if things[function].endswith(":") else "")
        for key, change in keys.items():
            tag = f"salt/qemulab/lab/{thing}/{change['effect']}"
            found.setdefault(tag, {})[key] = change
    return found


@contextlib.contextmanager
def held(salted: Salted, lock: str) -> Iterator[None]:
    """Keep an apply from what it is about to do: another process has its lock."""
    process = salted.host.spawn(["flock", lock, "sh", "-c", "echo; sleep 60"])
    assert process.stdout is not None
    process.stdout.readline()
    try:
        yield
    finally:
        process.kill()
        process.communicate()


def jobs(salted: Salted) -> int:
    """Return how many jobs the minion has at hand, those with it that wait for another's end."""
    # Salt 3008 keeps them in queues/MASTER/state_queue; before it, each waits as a process.
    places = [f"/var/cache/salt/minion/{name}" for name in ("proc", "queues")]
    ours = ["(", "-path", "*/proc/*", "-o", "-path", "*/state_queue/*", ")"]
    shown = salted.host.run(["find", *places, "-type", "f", *ours], check=False)
    return len(shown.stdout.splitlines())


@pytest.mark.parametrize("salted", ["file_roots"], indirect=True)
def test_queue(salted: Salted) -> None:
    """Two applies at once: the second comes after the first, and finds nothing to do."""
    before = salted.pids()
    salted.declare({**LAB, "vms": {**LAB["vms"], "c": tiny(nics=[])}})
    words = [PATIENT, "--out=json", MINION, "state.apply", "lab", "queue=True"]
    argv = [f"{PROGRAMS}/salt", *words]
    with held(salted, "/run/qemulab/lab/locks/vm-c"):
        first = salted.host.spawn(argv, env=ENVIRONMENT)
        harness.wait_for(lambda: jobs(salted) == 1, 60, "the first apply")
        second = salted.host.spawn(argv, env=ENVIRONMENT)
        harness.wait_for(
            lambda: jobs(salted) == 2 or second.poll() is not None, 60, "the second one"
        )
    answers = [json.loads(each.communicate(timeout=120)[0])[MINION] for each in (first, second)]
    assert all(isinstance(answer, dict) for answer in answers), answers
    # From Salt 3008 on, the second job answers that it is queued, and is run later.
    now = [changes(answer) for answer in answers if not answer.get("queued")]
    assert sorted(map(list, now)) in ([["vm_running c"]], [[], ["vm_running c"]])
    harness.wait_for(lambda: not salted.salt("saltutil.running"), 60, "the end of both")
    after = salted.pids()
    assert len(after) == len(before) + 1 and before.items() <= after.items()
    assert changes(salted.salt("state.apply", "lab")) == {}


def test_f5_restart_and_upgrade(salted: Salted) -> None:
    """Whatever becomes of the minion, it leaves the lab alone and finds it again."""
    before = salted.pids()
    if salted.host.supervisor == "systemd":
        for mode in ("process", "mixed"):
            restart(salted, mode)
            assert salted.pids() == before, mode
    # Another Salt in another place, and newer modules on the master.
    salted.host.run(["bash", "-c", MOVE, "move", REPO])
    publish_newer(salted)
    restart(salted, "control-group")
    salted.wait()
    assert salted.salt("grains.get", "pythonexecutable") == "/opt/salt-new/bin/python3"
    assert salted.salt("saltutil.sync_all")["modules"] == ["modules._qemulab_version"]
    assert salted.salt("qemulab.version")["qemulab"] == "99.0"
    assert changes(salted.salt("state.apply", "lab")) == {}
    assert salted.pids() == before


MOVE = """
    set -e
    python3 -m venv --without-pip /opt/salt-new
    cd /opt/salt-new/bin
    sed '1s,.*,#!/opt/salt-new/bin/python3,' "$1/.venv/bin/salt-minion" > salt-minion
    chmod +x salt-minion
    cd ../lib/python3*/site-packages
    ls -d "$1"/.venv/lib/python3*/site-packages > packages.pth
    ln -sfn salt-new /opt/salt
"""


def restart(salted: Salted, kill_mode: str) -> None:
    """Restart the minion by systemd, with a ``KillMode``; without systemd, kill it with SIGKILL."""
    if salted.host.supervisor == "systemd":
        salted.write_unit("minion", kill_mode)
        old = salted.main_pid()
        salted.host.run(["systemctl", "restart", "salt-minion"])
        assert salted.main_pid() not in (old, 0)
    else:
        salted.kill("minion")
        salted.start("minion")


def publish_newer(salted: Salted) -> None:
    """Have the master offer a newer version of the modules."""
    file = "_modules/_qemulab_version.py"
    edit = ["sed", "-i", 's/^VERSION.*/VERSION = "99.0"/']
    if salted.host.supervisor == "systemd":
        salted.host.run([*edit, REPO / file])  # under the host's overlay
        return
    origin = salted.host.shared / "origin"
    subprocess.run([*edit, origin / file], check=True)
    subprocess.run(["git", "-C", origin, "commit", "-q", "-a", "-m", "x"], check=True)
    salted.host.run([PROGRAMS / "salt-run", "fileserver.update"], env=ENVIRONMENT)
