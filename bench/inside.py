"""
One measurement, inside a throw-away host without a lab: starts one, times it.

Reads what to do as JSON from standard input, writes what it found as JSON to standard output.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import time
import xmlrpc.client
from pathlib import Path
from typing import Any

STATE = Path("/var/lib/qemulab")
LOGS = Path("/var/log/qemulab")
RUNTIME = Path("/run/qemulab")
RECIPE = STATE / "recipe"
MACHINES = {"master": 10022, "worker1": 10023, "worker2": 10024}
"""The machines, and where SSH to each is forwarded from."""

COMMAND_TIMEOUT = 120.0
SSH_TIMEOUT = 180.0
BANNER_TIMEOUT = 0.5
QMP_INTERVAL = 0.002
SSH_INTERVAL = 0.05
REPEATS = 5
"""How often what is taken off, or is compared with, is measured in a round: it varies by tenths."""


class Failure(Exception):
    """The measurement itself failed."""


def run(*argv: str) -> None:
    """Run a command that has to succeed."""
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Failure(f"{' '.join(argv)}: {done.stderr.strip()}")


def make_place(state: Path | None, guest: Path) -> None:
    """
    Give the host the guest image, and nothing else of a lab.

    state
        Where the lab's files are to lie in truth; in memory, as all of the host, where ``None``.

    guest
        Directory with the built guest.
    """
    for place in (STATE, LOGS):
        place.mkdir()
        if state is not None:
            own = state / place.parent.name
            own.mkdir()
            run("mount", "--bind", str(own), str(place))
    shutil.copytree(guest, STATE / "guest")
    os.sync()


# What is waited for


def greets(path: Path) -> bool:
    """Return whether QEMU greets on its QMP socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(1)
        try:
            client.connect(str(path))
            return b'"QMP"' in client.recv(4096)
        except OSError:
            return False


def shows_banner(port: int) -> bool:
    """Return whether an SSH server says who it is: costs less than to start ssh for it."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=BANNER_TIMEOUT) as client:
            return client.recv(4) == b"SSH-"
    except OSError:
        return False


def answers_ssh(port: int, key: str, deadline: float) -> float:
    """Return when a machine let us in and ran a command."""
    options = ["BatchMode=yes", "ConnectTimeout=5", "LogLevel=ERROR"]
    options += ["StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null"]
    argv = ["ssh", "-F", "none", "-i", key, "-p", str(port)]
    argv += [word for option in options for word in ("-o", option)]
    while time.monotonic() < deadline:
        if shows_banner(port):
            done = subprocess.run(
                [*argv, "root@127.0.0.1", "true"],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                check=False,
                timeout=30,
            )
            if done.returncode == 0:
                return time.monotonic()
        time.sleep(SSH_INTERVAL)
    raise Failure(f"SSH at port {port} did not answer within {SSH_TIMEOUT:g} s")


def all_answer_ssh(key: str) -> float:
    """Return when the last machine answered SSH."""
    deadline = time.monotonic() + SSH_TIMEOUT
    with concurrent.futures.ThreadPoolExecutor(len(MACHINES)) as pool:
        waiting = [pool.submit(answers_ssh, port, key, deadline) for port in MACHINES.values()]
        return max(each.result() for each in waiting)


# What is timed


def start_lab(argv: list[str], env: dict[str, str], sockets: list[Path]) -> dict[str, float]:
    """
    Run the command that makes the lab; the moments are seconds since it was started.

    Returns ``begin`` (of the monotonic clock), ``qmp`` (all three answered) and ``end`` (the
    command ended).
    """
    log = Path("/run/command.log")
    waiting = list(sockets)
    answered = ended = 0.0
    with log.open("wb") as output:
        begin = time.monotonic()
        process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=env
        )
        while time.monotonic() < begin + COMMAND_TIMEOUT:
            waiting = [path for path in waiting if not greets(path)]
            if not waiting and not answered:
                answered = time.monotonic()
            if not ended and process.poll() is not None:
                ended = time.monotonic()
            if ended and (answered or process.returncode != 0):
                break
            time.sleep(QMP_INTERVAL)
    if not ended or not answered or process.returncode != 0:
        said = log.read_text(encoding="utf-8", errors="replace")
        raise Failure(f"{' '.join(argv)}: exit status {process.returncode}\n{said[-3000:]}")
    return {"begin": begin, "qmp": answered - begin, "end": ended - begin}


def salt_alone(salt_call: str, env: dict[str, str]) -> dict[str, float]:
    """
    Return what Salt takes without any of ours, each the median of ``REPEATS``.

    ``ping`` is its own start; ``nothing`` is that and what it takes to apply one ``test.nop``.
    """
    roots = Path("/run/nothing")
    roots.mkdir()
    (roots / "nothing.sls").write_text("nothing: test.nop\n", encoding="utf-8")
    calls = {
        "ping": [salt_call, "test.ping"],
        "nothing": [salt_call, "--local", f"--file-root={roots}", "state.apply", "nothing"],
    }
    took: dict[str, list[float]] = {what: [] for what in calls}
    for _ in range(REPEATS):
        for what, argv in calls.items():
            begin = time.monotonic()
            subprocess.run(argv, env=env, stdout=subprocess.DEVNULL, check=True)
            took[what].append(time.monotonic() - begin)
    return {what: statistics.median(each) for what, each in took.items()}


def supervisor_alone(sockets: list[Path]) -> float:
    """
    Return the seconds in which the supervisor alone starts what the apply has started: nothing of
    ours and nothing of Salt's is in it, every disk, script and unit is there. The median of
    ``REPEATS``.
    """
    return statistics.median(supervisor_once(sockets) for _ in range(REPEATS))


def supervisor_once(sockets: list[Path]) -> float:
    """End all of the lab, and return in how many seconds the supervisor alone starts it again."""
    for mark in STATE.glob("lab/vms/*/disks/.in-use"):
        mark.unlink()  # killed in good order, so to say: their images are not to be checked
    if Path("/run/systemd/system").is_dir():
        directories = Path("/etc/systemd/system").glob("qemulab-*.service.d")
        services = sorted(path.name.removesuffix(".d") for path in directories)
        run("systemctl", "kill", "--signal=KILL", *services)
        run("systemctl", "stop", *services)
        run("systemctl", "reset-failed")  # it counts starts, and refuses the sixth in a minute
        argv, meanwhile = ["systemctl", "start", *services], lambda: None
    else:
        pid = (RUNTIME / "lab/supervisord.pid").read_text(encoding="utf-8").strip()
        supervisord = Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8").split("\0")[:-1]
        run("kill", pid)
        deadline = time.monotonic() + COMMAND_TIMEOUT
        while Path(f"/proc/{pid}").exists():
            if time.monotonic() > deadline:
                raise Failure(f"the lab's supervisord (process {pid}) does not end")
            time.sleep(0.05)
        argv, meanwhile = supervisord, start_all
    time.sleep(1)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        other = pool.submit(meanwhile)
        took = start_lab(argv, dict(os.environ), sockets)["qmp"]
        other.result()
    return took


def start_all() -> None:
    """Start all programs of a supervisord as soon as it listens: autostart takes seconds."""
    start = "supervisor.startProcess"
    names = sorted(path.stem for path in STATE.glob("lab/units/*.ini"))
    orders = [{"methodName": start, "params": [name, False]} for name in names]
    body = xmlrpc.client.dumps((orders,), "system.multicall")
    head = ("POST /RPC2 HTTP/1.1", "Content-Type: text/xml", f"Content-Length: {len(body)}")
    request = "\r\n".join([*head, "", body]).encode()
    deadline = time.monotonic() + COMMAND_TIMEOUT
    while time.monotonic() < deadline:
        with socket.socket(socket.AF_UNIX) as client, contextlib.suppress(OSError):
            client.connect(str(RUNTIME / "lab/supervisord.sock"))
            client.sendall(request)
            client.recv(4096)
            return
        time.sleep(QMP_INTERVAL)
    raise Failure("the new supervisord does not listen")


def no_op(salt_call: str, env: dict[str, str]) -> float:
    """Return the "Total run time" of an apply that has nothing to do, in ms."""
    argv = [salt_call, "--out=json", "state.apply", "lab"]
    done = subprocess.run(argv, env=env, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Failure(f"the second apply failed: {done.stdout[-3000:]}{done.stderr[-1000:]}")
    states = json.loads(done.stdout)["local"].values()
    changed = [state["__id__"] for state in states if state["changes"]]
    if changed:
        raise Failure(f"the second apply changed {', '.join(changed)}")
    return float(sum(state["duration"] for state in states))


def measure_script(task: dict[str, Any], env: dict[str, str]) -> dict[str, Any]:
    """Time the recipe."""
    RECIPE.mkdir()
    sockets = [RECIPE / f"qmp-{name}.sock" for name in MACHINES]
    argv = [f"{task['checkout']}/bench/recipe.sh", "start", str(RECIPE)]
    found: dict[str, Any] = dict(start_lab(argv, env, sockets))
    if task["ssh"]:
        found["ssh"] = all_answer_ssh(task["key"]) - found["begin"]
    return found


def measure_salt(task: dict[str, Any], env: dict[str, str]) -> dict[str, Any]:
    """Time the first apply and those after it."""
    salt_call = f"{task['checkout']}/salt-call"
    alone = salt_alone(salt_call, env)
    # Where _qemulab_host_paths.py has them, for the lab of pillar.example.
    sockets = [RUNTIME / f"lab/vms/{name}/qmp.sock" for name in MACHINES]
    found: dict[str, Any] = dict(start_lab([salt_call, "state.apply", "lab"], env, sockets))
    found.update(alone)
    if task["ssh"]:
        found["ssh"] = all_answer_ssh(str(STATE / "lab/ssh/id_ed25519")) - found["begin"]
    found["no_op"] = [no_op(salt_call, env) for _ in range(task["no_ops"])]
    found["alone"] = supervisor_alone(sockets)
    # The host's devices are this machine's own, and a lab may have made one.
    subprocess.run([salt_call, "state.apply", "lab.purge"], env=env, stdout=subprocess.DEVNULL)
    return found


def main() -> int:
    """Do what standard input says."""
    task = json.load(sys.stdin)
    env = {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": "/root",
        "LC_ALL": "C.UTF-8",
        **task["env"],
    }
    measure = {"script": measure_script, "salt": measure_salt}[task["what"]]
    try:
        make_place(Path(task["state"]) if task["state"] else None, Path(task["guest"]))
        found = measure(task, env)
    except (Failure, OSError, subprocess.SubprocessError) as err:
        print(f"bench: {err}", file=sys.stderr)
        return 1
    json.dump(found, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
