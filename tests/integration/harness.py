"""
Throw-away hosts: this machine's own file system under an overlay, in namespaces of its own.

``namespace_host`` has no systemd (its PID 1 only reaps), ``systemd_host`` has a real one. Both give
the same :class:`Host`, so that a test over both runs unchanged: a user's view of a host that has
the checkout and the installed packages, and no lab yet. Nothing written there lasts, nothing
started there outlives it: not even where the tests are killed.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import field
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parents[2]

#: Where the other end of an uplink is, and the host's own address on it.
GATEWAY = "198.51.100.1"
ADDRESS = "198.51.100.2"

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

#: Which virtualenv ./salt-call takes: the one that ``./test`` chose, never this machine's own Salt.
OUR_SALT = {name: os.environ.get(name, "") for name in ("QEMULAB_SALT", "QEMULAB_PYTHON")}
OUR_SALT["QEMULAB_SALT"] = OUR_SALT["QEMULAB_SALT"] or "own"

#: How the control groups of this process's hosts begin: others may test on this machine as well.
GROUP = f"qemulab-test-{os.getpid()}-"

BOOT = Path(__file__).with_name("boot.sh").read_text(encoding="utf-8")


class HostFailure(AssertionError):
    """A command in a throw-away host failed: what it was, how it ended and all that it said."""

    def __init__(
        self, argv: Sequence[str], ending: str, stdout: str = "", stderr: str = ""
    ) -> None:
        self.stdout = stdout
        self.stderr = stderr
        said = f"\n--- stdout\n{stdout}\n--- stderr\n{stderr}" if stdout or stderr else ""
        super().__init__(f"{' '.join(argv)}: {ending}{said}")


class Command(subprocess.Popen[str]):
    """A running command of a host: a signal reaches it, not only the nsenter that waits for it."""

    def send_signal(self, sig: int) -> None:
        """Signal the whole process group; ``kill`` and ``terminate`` do so by this."""
        if self.poll() is None:
            os.killpg(self.pid, sig)


@dataclass
class Uplink:
    """The far end of a host's only way out, with a record of every frame that left by it."""

    router: int
    capture: Path
    mark: Callable[[int], None]
    _marks: Iterator[int] = field(default_factory=lambda: itertools.count(40000))

    def seen(self) -> list[str]:
        """
        Return all frames but ARP that the host has sent until now, as tcpdump's lines.

        A datagram is sent last and waited for: what was sent before it has then been recorded.
        """
        port = next(self._marks)
        self.mark(port)
        ours = f"> {GATEWAY}.4"
        wait_for(lambda: f"> {GATEWAY}.{port}:" in self.capture.read_text(), 10, "the last frame")
        return [line for line in self.capture.read_text().splitlines() if ours not in line]


@dataclass
class Host:
    """A running throw-away host. ``shared`` is the one directory that it has in common with us."""

    supervisor: str
    pid1: int
    shared: Path
    uplink: Uplink | None = None
    before: dict[str, set[str]] = field(default_factory=dict)

    def run(
        self,
        argv: Sequence[str | os.PathLike[str]],
        check: bool = True,
        timeout: float = 120,
        env: Mapping[str, str] | None = None,
        stdin: str | None = None,
        cwd: Path | str = "/",
    ) -> subprocess.CompletedProcess[str]:
        """
        Run a command in the host, as root with a clean environment, and return how it ended.

        check
            Raise HostFailure, with its output, where the exit status is not 0. Default ``True``.

        timeout
            Seconds until it is killed and HostFailure raised. Default 120.

        env
            Variables beside PATH, HOME, LC_ALL and those that choose a Salt.

        stdin
            Text for its standard input; none by default.

        cwd
            Working directory in the host. Default ``/``.
        """
        command = [os.fspath(part) for part in argv]
        pipe = subprocess.DEVNULL if stdin is None else subprocess.PIPE
        process = self.spawn(command, env=env, cwd=cwd, stdin=pipe)
        try:
            stdout, stderr = process.communicate(stdin, timeout=timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            # A process that outlives the command and holds its output must not stop us as well.
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.communicate(timeout=1)
            raise HostFailure(command, f"did not end within {timeout:g} s") from None
        if check and process.returncode != 0:
            raise HostFailure(command, f"exit status {process.returncode}", stdout, stderr)
        return subprocess.CompletedProcess(command, process.returncode, stdout, stderr)

    def spawn(
        self,
        argv: Sequence[str],
        env: Mapping[str, str] | None = None,
        cwd: Path | str = "/",
        stdin: int = subprocess.DEVNULL,
    ) -> Command:
        """Start a command in the host and return it running, with pipes for its output."""
        variables = {"PATH": PATH, "HOME": "/root", "LC_ALL": "C.UTF-8", **OUR_SALT, **(env or {})}
        words = [f"{name}={value}" for name, value in variables.items()]
        return Command(
            [*self.enter(), "env", "-i", "-C", os.fspath(cwd), *words, *argv],
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
        )

    def enter(self) -> list[str]:
        """Return the words before a command that make it run in the host."""
        spaces = ["--pid", "--mount", "--uts", "--ipc", "--net", "--cgroup"]
        return ["nsenter", "--target", str(self.pid1), *spaces, "--"]

    def salt_call(
        self, *words: str, pillar: Path | None = None, check: bool = True, timeout: float = 300
    ) -> Any:
        """
        Return what ``./salt-call`` in the host answers: the value of ``local`` in its JSON.

        words
            Function and arguments.

        pillar
            The pillar's file; default the host's own, else the example.

        check
            Raise HostFailure where the exit status is not 0 (a state failed). Default ``True``.
        """
        env = {} if pillar is None else {"QEMULAB_PILLAR": os.fspath(pillar)}
        command = [os.fspath(REPO / "salt-call"), "--out=json", *words]
        done = self.run(command, check=check, timeout=timeout, env=env)
        try:
            return json.loads(done.stdout)["local"]
        except (ValueError, KeyError):
            ending = f"exit status {done.returncode} and no JSON"
            raise HostFailure(command, ending, done.stdout, done.stderr) from None

    def path(self, path: str) -> Path:
        """Return where this process finds a file or a socket of the host."""
        return Path(f"/proc/{self.pid1}/root{path}")

    def processes(self) -> set[str]:
        """Return the command lines of all processes but PID 1; a zombie's ends in ``<defunct>``."""
        lines = self.run(["ps", "-e", "-ww", "-o", "pid=,args="]).stdout.splitlines()
        found = {tuple(line.split(None, 1)) for line in lines}
        return {args for pid, args in found if pid != "1" and not args.startswith("ps -e -ww")}

    def interfaces(self) -> set[str]:
        """Return the names of all network interfaces."""
        return {link["ifname"] for link in json.loads(self.run(["ip", "-j", "link"]).stdout)}

    def routes(self) -> set[str]:
        """Return the main routing tables, IPv4 and IPv6, a line a route."""
        lines = self.run(["ip", "route"]).stdout + self.run(["ip", "-6", "route"]).stdout
        return {line.strip() for line in lines.splitlines()}

    def sockets(self) -> set[str]:
        """Return what is listened on, by protocol and address or path."""
        lines = self.run(["ss", "-H", "-l", "-n", "-t", "-u", "-x"]).stdout.splitlines()
        return {f"{line.split()[0]} {line.split()[4]}" for line in lines}

    def files(self) -> set[str]:
        """
        Return every path that was written in the host, wherever; what was removed in brackets.

        That is what the overlay holds, and /run, /tmp and /dev, which are the host's own. Left
        out are ./salt-call's own files and the shared directory.
        """
        # Files come and go while it looks: that alone is no failure.
        find = ["find", "/written", "/run", "/tmp", "/dev", "-xdev", "-mindepth", "1"]
        find += ["-printf", "%y%p\\n"]
        found = set()
        for line in self.run(find, check=False).stdout.splitlines():
            kind, path = line[0], line[1:].removeprefix("/written")
            # A directory is copied up for what is written below it; ours, below, has it as well.
            if kind == "d" and os.path.isdir(path):
                continue
            if path.startswith(UNITS) or not path.startswith(self.ignored()):
                found.add(f"[{path}]" if kind == "c" else path)
        return found

    def save_disk(self) -> Path:
        """
        Save what is on the host's disk at this moment, and return where.

        A host that boots with it finds all that was written but /run, /tmp and /dev/shm.
        """
        disk = self.shared / "disk"
        self.run(["sh", "-c", 'mkdir "$0" && cp -a /written/. "$0"', disk])
        return disk

    def ignored(self) -> tuple[str, ...]:
        """Return how the paths begin that say nothing about a lab."""
        return (os.fspath(REPO / ".venv"), os.fspath(self.shared), *HOST_OWN)

    def snapshot(self) -> dict[str, set[str]]:
        """Return all that a lab could leave behind, by kind."""
        return {
            "processes": self.processes(),
            "interfaces": self.interfaces(),
            "routes": self.routes(),
            "sockets": self.sockets(),
            "files": self.files(),
        }

    def leftovers(self) -> dict[str, set[str]]:
        """Return what is there now and was not when the host came up, by kind; empty if nothing."""
        now = self.snapshot()
        new = {kind: now[kind] - self.before.get(kind, set()) for kind in now}
        return {kind: found for kind, found in new.items() if found}


#: What systemd, its journal and the tools that make users write on their own …
HOST_OWN = (
    "/etc/.pwd.lock",
    "/run/log/",
    "/run/systemd/",
    "/var/lib/systemd/",
    "/var/log/journal",
    # .venv of another system
    "/venv",
)
#: … and where in there a lab could leave units.
UNITS = ("/run/systemd/system/", "/run/systemd/transient/")


def wait_for(question: Callable[[], Any], timeout: float, what: str) -> Any:
    """Ask until the answer is true and return it; raise HostFailure where it takes too long."""
    deadline = time.monotonic() + timeout
    while not (answer := question()):
        if time.monotonic() > deadline:
            raise HostFailure(["waiting for", what], f"not within {timeout:g} s")
        time.sleep(0.02)
    return answer


@contextlib.contextmanager
def namespace_host(
    tmp_path: Path, uplink: bool = False, lower: Path = Path("/"), disk: Path | None = None
) -> Iterator[Host]:
    """
    Run a host without systemd for the length of a ``with`` block.

    tmp_path
        A directory of the test's own; the host has it under the same path, writable.

    uplink
        Whether it has a default route, into a second namespace that records what leaves by it.
        Default ``False``: it has ``lo`` and nothing else.

    lower
        The file system under its overlay. Default: this machine's own.

    disk
        What ``Host.save_disk`` has saved of an earlier host: this one is that one after a power
        cut. Default: nothing was ever written.
    """
    with booted("supervisord", tmp_path, uplink, lower, disk) as host:
        yield host


@contextlib.contextmanager
def systemd_host(
    tmp_path: Path, uplink: bool = False, lower: Path = Path("/"), disk: Path | None = None
) -> Iterator[Host]:
    """Run a host whose PID 1 is systemd; the arguments are those of ``namespace_host``."""
    with booted("systemd", tmp_path, uplink, lower, disk) as host:
        yield host


HOSTS = {"supervisord": namespace_host, "systemd": systemd_host}
"""What makes a host, by the supervisor that runs a lab there."""


@contextlib.contextmanager
def booted(
    supervisor: str, shared: Path, with_uplink: bool, lower: Path, disk: Path | None
) -> Iterator[Host]:
    """Boot a host, wait until it can be used, and end it with all that runs in it."""
    with contextlib.ExitStack() as stack:
        pid1 = stack.enter_context(init_process(supervisor, shared, with_uplink, lower, disk))
        host = Host(supervisor, pid1, shared)
        if supervisor == "systemd":
            wait_for(lambda: systemd_is_up(host), 30, "systemd")
        if with_uplink:
            host.uplink = stack.enter_context(uplink_of(host))
        host.before = host.snapshot()
        yield host


def systemd_is_up(host: Host) -> bool:
    """Return whether everything that systemd starts at boot has been started."""
    state = host.run(["systemctl", "is-system-running"], check=False).stdout.strip()
    return state in ("running", "degraded")


@contextlib.contextmanager
def init_process(
    supervisor: str, shared: Path, with_uplink: bool, lower: Path, disk: Path | None
) -> Iterator[int]:
    """Run a host's PID 1 and give its number in our own PID namespace."""
    resolver = GATEWAY if with_uplink else "192.0.2.53"
    with (
        tempfile.TemporaryDirectory() as base,
        control_group() as group,
        open(Path(base) / "errors", "w+", encoding="utf-8") as errors,
    ):
        boot = [BOOT, "boot", base, supervisor, os.fspath(REPO), os.fspath(shared), resolver]
        boot += [os.fspath(lower), "" if disk is None else os.fspath(disk)]
        outer = subprocess.Popen(
            # --pdeathsig: where the tests are killed, unshare is, and --kill-child ends the host.
            ["setpriv", "--pdeathsig", "KILL", "bash", "-c", f'{group} exec "$@"', "enter"]
            + ["unshare", "--fork", "--kill-child", "--pid", "--mount", "--cgroup", "--uts"]
            + ["--ipc", "--net", "bash", "-c", *boot],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            start_new_session=True,
        )
        answer = ""
        try:
            assert outer.stdout is not None
            answer = outer.stdout.readline().strip()
            if not answer:
                errors.seek(0)
                raise HostFailure(["boot", supervisor], "did not come up", stderr=errors.read())
            yield int(answer)
        finally:
            # The kernel ends all others first: once PID 1 is gone, and unshare with it, all are.
            with contextlib.suppress(ProcessLookupError, ValueError):
                os.kill(int(answer), signal.SIGKILL)
            with contextlib.suppress(subprocess.TimeoutExpired):
                outer.wait(10)
            outer.kill()
            outer.communicate()


@contextlib.contextmanager
def control_group() -> Iterator[str]:
    """
    Make a control group for a host, and give the shell command that enters it.

    systemd makes groups of its own below the one that it finds itself in, and leaves them there.
    """
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    tops = [Path(fields[1]) for fields in mounts if fields[2] == "cgroup2"]
    own = re.search("^0::/(.*)$", Path("/proc/self/cgroup").read_text(), re.MULTILINE)
    group = None
    if tops and own:
        with contextlib.suppress(OSError):
            group = Path(tempfile.mkdtemp(prefix=GROUP, dir=tops[0] / own[1]))
    if group is None:
        yield ""
        return
    try:
        yield f"echo $$ > {group}/cgroup.procs;"
    finally:
        wait_for(lambda: removed_groups(group), 10, f"the processes of {group}")


def removed_groups(top: Path) -> bool:
    """Remove a control group and all below it; return whether that worked."""
    try:
        for path, _, _ in os.walk(top, topdown=False):
            os.rmdir(path)
    except OSError:
        return not top.exists()
    return True


@contextlib.contextmanager
def uplink_of(host: Host) -> Iterator[Uplink]:
    """Give a host a default route into a second network namespace, where tcpdump listens."""
    router = subprocess.Popen(["unshare", "--net", "cat"], stdin=subprocess.PIPE)
    inside = ["nsenter", "--target", str(host.pid1), "--net", "--"]
    outside = ["nsenter", "--target", str(router.pid), "--net", "--"]
    capture = host.shared / "uplink.txt"
    started: list[subprocess.Popen[Any]] = [router]
    try:
        ours = os.readlink("/proc/self/ns/net")
        wait_for(lambda: os.readlink(f"/proc/{router.pid}/ns/net") != ours, 10, "unshare")
        make = f"""
            set -e
            ip link add uplink type veth peer name lan netns {router.pid}
            echo 1 > /proc/sys/net/ipv6/conf/uplink/disable_ipv6
            ip addr add {ADDRESS}/24 dev uplink && ip link set uplink up"""
        subprocess.run([*inside, "sh", "-c", make], check=True)
        meet = f"ip addr add {GATEWAY}/24 dev lan && ip link set lan up && ip link set lo up"
        subprocess.run([*outside, "sh", "-c", meet], check=True)
        # Only now is there a carrier; a route made before it would stay without one.
        subprocess.run([*inside, "ip", "route", "add", "default", "via", GATEWAY], check=True)
        with open(capture, "w", encoding="utf-8") as output:
            listen = ["-i", "lan", "-Q", "in", "-nn", "-e", "-l", "--immediate-mode", "not", "arp"]
            tcpdump = subprocess.Popen(
                [*outside, "tcpdump", *listen], stdout=output, stderr=subprocess.PIPE, text=True
            )
        started.append(tcpdump)
        assert tcpdump.stderr is not None
        while "listening on" not in (line := tcpdump.stderr.readline()):
            assert line, "tcpdump ended"

        def mark(port: int) -> None:
            send = f"echo mark > /dev/udp/{GATEWAY}/{port}"
            subprocess.run([*inside, "bash", "-c", send], check=True)

        yield Uplink(router.pid, capture, mark)
    finally:
        for process in started:
            process.kill()
            process.communicate()
