"""
The built-in guest for real: built from packages, booted by plain QEMU, used as a person would.

Its busybox is one that is linked with libraries and has no init, as openSUSE's; the machines of
all other tests have Debian's static one. QEMU and every connection to it are in a network namespace
of their own; only packages are downloaded outside of it.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import _qemulab_guest_contents as guest
import _qemulab_guest_image as image
import deb_packages
import pytest

pytestmark = [
    pytest.mark.needs_root,
    pytest.mark.needs(
        "qemu-system-x86_64", "qemu-img", "busybox", "dpkg-deb",
        "ip", "nsenter", "rsync", "scp", "sftp", "ssh", "ssh-keygen", "unshare",
    ),
]  # fmt: skip

#: Seconds until the guest answers: TCG on a machine that does other things as well. A second boot
#: of one QEMU takes twice as long as its first (measured: 38 s after 18, at a load of ten).
BOOT = 120

#: Seconds that a starved QEMU stands still and then runs: 4 % of a core.
STILL, RUNS = 0.096, 0.004

#: What a kernel believes that has measured its CPU's counter on a busy host, here by its own word:
#: a boot in ten that is starved at that moment goes as wrong as this.
WRONG_COUNTER = " tsc_early_khz=153000"

#: QEMU becomes the namespace's only process, under the PID that the test knows.
IN_NAMESPACE = ["unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]


def wait_for(question: Callable[[], Any], timeout: float, what: str, pause: float = 0.05) -> Any:
    """Ask until the answer is true and return it; seconds between two questions: ``pause``."""
    deadline = time.monotonic() + timeout
    while not (answer := question()):
        assert time.monotonic() < deadline, f"{what}: not within {timeout:g} s"
        time.sleep(pause)
    return answer


@dataclass
class Machine:
    """A running QEMU with the built-in guest in it."""

    process: subprocess.Popen[bytes]
    home: Path

    @property
    def serial(self) -> str:
        """Return what the guest has written to its serial console."""
        path = self.home / "serial"
        return path.read_text("utf-8", "replace") if path.exists() else ""

    def config(self, key: str = "key") -> Path:
        """Return a configuration for ssh that knows the guest by its host key, and no other."""
        host_key = (self.home / "host_key.pub").read_text("utf-8")
        (self.home / "known_hosts").write_text(f"guest {host_key}", "utf-8")
        options = {
            "HostName": "127.0.0.1",
            "Port": "10022",
            "User": "root",
            "BatchMode": "yes",
            "ConnectTimeout": "10",
            "IdentityFile": str(self.home / key),
            "IdentitiesOnly": "yes",
            "LogLevel": "ERROR",
            "HostKeyAlias": "guest",
            "StrictHostKeyChecking": "yes",
            "UserKnownHostsFile": str(self.home / "known_hosts"),
        }
        path = self.home / f"config-{key}"
        path.write_text("".join(f"{name} {value}\n" for name, value in options.items()), "utf-8")
        return path

    def run(self, *argv: object, check: bool = True, stdin: str = "") -> str:
        """Run a command on the host, where the guest is reached, and return its output."""
        done = subprocess.run(
            ["nsenter", f"--net=/proc/{self.process.pid}/ns/net", *map(str, argv)],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=150,
            check=False,
        )
        assert not check or done.returncode == 0, f"{argv}: {done.stdout}{done.stderr}"
        return done.stdout

    def ssh(self, command: str, check: bool = True, key: str = "key") -> str:
        """Run a command in the guest as root and return its output."""
        return self.run("ssh", "-F", self.config(key), "guest", command, check=check)

    def type(self, text: str, answer: str) -> None:
        """Type on the serial console, and wait until it says something."""
        before = len(self.serial)
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(self.home / "console"))
            connection.sendall(text.encode())
            wait_for(lambda: answer in self.serial[before:], 30, f"{answer} on the console")

    def qmp(self, command: str) -> None:
        """Execute a QMP command without arguments."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(10)
            connection.connect(str(self.home / "qmp"))
            with connection.makefile("rw", encoding="utf-8") as stream:
                assert "QMP" in json.loads(stream.readline())
                for name in ("qmp_capabilities", command):
                    stream.write(json.dumps({"execute": name}) + "\n")
                    stream.flush()
                    while "return" not in json.loads(stream.readline()):
                        pass


def qemu(built: Path, home: Path) -> list[str]:
    """Return the command: two NICs, a disk, the keys, no firmware, no screen."""
    key, host_key = home / "host_key", f"{guest.HANDED}/ssh_host_ed25519_key"
    console = f"socket,id=console,path={home / 'console'},server=on,wait=off"
    # fmt: off
    return [
        "qemu-system-x86_64", "-nodefaults", "-no-user-config",
        "-machine", "pc", "-accel", "tcg", "-smp", "2", "-m", "512", "-display", "none",
        "-kernel", str(built / "vmlinuz"), "-initrd", str(built / "initrd"),
        "-append", guest.kernel_arguments("tcg"),
        "-fw_cfg", f"name={guest.HANDED}/authorized_keys,file={home / 'key.pub'}",
        "-fw_cfg", f"name={guest.HANDED}/hostname,string=before-dhcp",
        *(["-fw_cfg", f"name={host_key},file={key}"] if key.exists() else ()),
        "-device", "virtio-rng-pci",
        "-netdev", "user,id=lab,net=10.0.3.0/24,dhcpstart=10.0.3.101,hostname=master",
        "-device", "virtio-net-pci,netdev=lab",
        "-netdev", "user,id=uplink,hostfwd=tcp:127.0.0.1:10022-:22",
        "-device", "virtio-net-pci,netdev=uplink",
        "-drive", f"if=ide,format=qcow2,file={home / 'disk.qcow2'}",
        "-chardev", f"{console},logfile={home / 'serial'}", "-serial", "chardev:console",
        "-qmp", f"unix:{home / 'qmp'},server=on,wait=off",
    ]
    # fmt: on


#: What openSUSE's busybox cannot do, of what Debian's can. Source: busybox.config of Factory
NOT_ON_SUSE = (
    "acpid", "blockdev", "crond", "cttyhack", "devmem", "dumpleases", "freeramdisk", "getty",
    "hwclock", "init", "klogd", "linuxrc", "logread", "microcom", "pivot_root", "rpm2cpio",
    "run-init", "run-parts", "start-stop-daemon", "swapoff", "swapon", "taskset", "udhcpd",
    "watchdog",
)  # fmt: skip


def without(busybox: bytes, names: tuple[str, ...]) -> bytes:
    """Return a busybox without some applets: they get names that nobody calls them by."""
    # The names are one sorted list, in which busybox looks for that it is called by; a last letter
    # that comes after all others leaves most of them in their order.
    begin = busybox.index(b"\0acpid\0")
    end = busybox.index(b"\0zcat\0", begin)
    listed = busybox[begin:end]
    for name in names:
        listed = listed.replace(f"\0{name}\0".encode(), f"\0{name[:-1]}~\0".encode())
    return busybox[:begin] + listed + busybox[end:]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Build the image, once, as where busybox is openSUSE's."""
    home = tmp_path_factory.mktemp("guest")
    deb_packages.unpack("busybox", home / "root")
    (program,) = (path for path in (home / "root").rglob("busybox") if path.parent.name == "bin")
    poor = home / "bin/busybox"
    poor.parent.mkdir()
    poor.write_bytes(without(program.read_bytes(), NOT_ON_SUSE))
    poor.chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{poor.parent}:{os.environ['PATH']}")
        listed = subprocess.run(["busybox", "--list"], capture_output=True, text=True, check=True)
        assert not {"init", "acpid"} & set(listed.stdout.split())
        image.build(home / "image")
    yield home / "image"


@pytest.fixture(scope="module")
def machine(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """Boot the image and wait until it has reported all it reports; one boot for all tests."""
    tmp_path = tmp_path_factory.mktemp("machine")
    for key in ("key", "stranger", "host_key"):
        argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / key)]
        subprocess.run(argv, check=True)
    disk = str(tmp_path / "disk.qcow2")
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", disk, "1G"], check=True)
    command = qemu(built, tmp_path)
    command[command.index("-append") + 1] += WRONG_COUNTER
    process = subprocess.Popen([*IN_NAMESPACE, *command], stdin=subprocess.DEVNULL)
    running = Machine(process, tmp_path)
    try:
        lines = ("qemulab: eth0", "qemulab: eth1", "qemulab: ssh ready", "qemulab: booted")

        def reported() -> bool:
            assert process.poll() is None, "QEMU has ended"
            return all(line in running.serial for line in lines)

        wait_for(reported, BOOT, "the guest's report")
        yield running
    finally:
        process.kill()
        process.wait()


def test_image(built: Path) -> None:
    """The image says what it is made of, any user can read it, and nothing else is left."""
    facts = image.info(built)
    assert facts is not None
    assert facts["recipe"] == guest.RECIPE
    assert re.match(r"\d+\.\d+", facts["kernel"])
    assert facts["size"] == sum((built / name).stat().st_size for name in ("vmlinuz", "initrd"))
    modes = {path.name: oct(path.stat().st_mode & 0o777) for path in built.iterdir()}
    assert modes.pop(".lock") == "0o600"
    assert modes == dict.fromkeys(("guest.json", "initrd", "vmlinuz"), "0o644")


def test_guest(machine: Machine) -> None:
    """It reports, lets the key in, has its addresses, its name and its disk."""
    assert "qemulab: eth0 10.0.3.101/24 name " in machine.serial
    assert "qemulab: eth1 10.0.2.15/24 name " in machine.serial
    assert machine.ssh("hostname; id -u; echo $HOME").split() == ["master", "0", "/root"]

    # Another key is refused, and there is no password to try.
    assert machine.ssh("hostname", check=False, key="stranger") == ""

    addresses = machine.ssh("ip -4 addr")
    assert "inet 10.0.3.101/24 brd 10.0.3.255 scope global eth0" in addresses
    assert "inet 10.0.2.15/24 brd 10.0.2.255 scope global eth1" in addresses
    # The last NIC's route is the preferred one.
    assert machine.ssh("ip route get 192.0.2.1").startswith("192.0.2.1 via 10.0.2.2 dev eth1")
    # The lab's server, which gave the name, is asked first.
    servers = re.findall(r"nameserver (\S+)", machine.ssh("cat /etc/resolv.conf"))
    assert servers == ["10.0.3.3", "10.0.2.3"]
    assert machine.ssh("ping -c 1 -w 5 10.0.2.2 >/dev/null && echo answered") == "answered\n"

    assert machine.ssh("cat /sys/block/sda/size") == f"{2**30 // 512}\n"
    assert machine.ssh("modprobe vfat && modprobe isofs && grep -c -e vfat -e iso9660 "
                       "/proc/filesystems") == "2\n"  # fmt: skip


def clock_is_right(machine: Machine) -> None:
    """Compare the guest's clock, its date and its sleep with the host's."""
    assert "153.000 MHz" in machine.ssh("dmesg | grep 'tsc: Detected'")
    begun = time.monotonic()
    first = float(machine.ssh("cut -d ' ' -f 1 /proc/uptime"))
    between = time.monotonic()
    second = float(machine.ssh("sleep 2; cut -d ' ' -f 1 /proc/uptime"))
    ended = time.monotonic()
    # Read at some moment of each connection: no more can lie between the two than from the first
    # one's beginning to the second one's end.
    assert 2 <= second - first <= ended - begun + 0.05
    assert ended - between < 2 + BOOT / 8
    assert abs(float(machine.ssh("date +%s")) - time.time()) < 5


def test_clock_is_right_though_the_counter_was_measured_wrong(machine: Machine) -> None:
    """Whatever Linux measured: it is told 153 MHz here. After a reboot, see below."""
    clock_is_right(machine)


def test_host_key_is_the_one_handed_in(machine: Machine) -> None:
    """The guest is known by it (here and in every other test), and shows no other key."""
    asked = ("ssh-keyscan", "-T", "120", "-p", "10022", "127.0.0.1")
    # It asks once for each kind of key; on a busy machine one of these handshakes may time out.
    answers = (machine.run(*asked, check=False).split() for _ in range(3))
    shown = next(filter(None, answers), [])
    assert shown[1:3] == (machine.home / "host_key.pub").read_text("utf-8").split()[:2]
    assert shown.count("ssh-ed25519") == len(shown) // 3 == 1
    # Nobody but root reads it in there.
    assert machine.ssh("ls -l /etc/ssh/ssh_host_*_key").startswith("-rw------- ")
    assert machine.ssh("ls -l /sys/firmware/qemu_fw_cfg/by_name/opt/qemulab/*key/raw")[:10] in (
        "-r--------", "-r--------.",
    )  # fmt: skip


def test_files_get_in_and_out_the_usual_way(machine: Machine, tmp_path: Path) -> None:
    """By scp with SFTP and with its old protocol, sftp, and rsync; both ways, with their modes."""
    config = machine.config()
    source = tmp_path / "a file"
    source.write_bytes(os.urandom(300_000))
    source.chmod(0o751)
    back = tmp_path / "back"
    rsync = f"ssh -F {config}"
    ways = {
        "scp": (["scp", "-pF", config, source, "guest:/tmp/a"],
                ["scp", "-pF", config, "guest:/tmp/a", back]),
        "old scp": (["scp", "-OpF", config, source, "guest:/tmp/a"],
                    ["scp", "-OpF", config, "guest:/tmp/a", back]),
        "rsync": (["rsync", "-ae", rsync, source, "guest:/tmp/a"],
                  ["rsync", "-ae", rsync, "guest:/tmp/a", back]),
    }  # fmt: skip
    for name, (there, here) in ways.items():
        machine.run(*there)
        machine.run(*here)
        assert back.read_bytes() == source.read_bytes(), name
        assert back.stat().st_mode & 0o777 == 0o751, name
        back.unlink()
        machine.ssh("rm /tmp/a")
    orders = f'put "{source}" /root/x\nget /root/x {back}\nls /root\nrm /root/x\n'
    said = machine.run("sftp", "-b", "-", "-F", config, "guest", stdin=orders)
    assert "/root/x" in said
    assert back.read_bytes() == source.read_bytes()


def test_console_is_a_root_shell(machine: Machine) -> None:
    """Behind one key; what runs in it can be interrupted, and after its end there is another."""
    machine.type("\n", "root@master:/root# ")
    machine.type("sleep 1000\n", "sleep 1000")
    wait_for(
        lambda: machine.ssh("pidof sleep | wc -w") == "2\n", 10, "two sleeps, one of them init's"
    )
    machine.type("\x03", "root@master:/root# ")
    machine.type("echo $((6 * 7))\n", "42")
    machine.type("exit\n", "Press Enter for a root shell.")
    machine.type("\n", "root@master:/root# ")


def test_no_zombie_is_left(machine: Machine) -> None:
    """Whoever loses its parent is init's, which is a shell here."""
    machine.ssh("(sleep 0 &); (sh -c 'sleep 1' &) ; sleep 2")
    states = machine.ssh("cat /proc/[0-9]*/stat 2>/dev/null")
    assert [line for line in states.splitlines() if ") Z " in line] == []


def test_guest_reboots(machine: Machine) -> None:
    """What was on a disk before is there after, and the clock is right once more."""
    machine.ssh("mke2fs /dev/sda >/dev/null && mount /dev/sda /mnt && echo kept >/mnt/file")
    # The connection may end before the command does.
    machine.ssh("reboot", check=False)
    wait_for(lambda: machine.serial.count("qemulab: ssh ready") == 2, BOOT, "the second boot")
    assert machine.ssh("mount /dev/sda /mnt && cat /mnt/file") == "kept\n"
    # Unmounted on the way down: nothing had to be repaired.
    assert "recover" not in machine.ssh("dmesg | grep sda") + machine.serial
    clock_is_right(machine)


#: Runs in the guest: what the handler of a second press does to the first one's, whenever it comes.
SECOND_HANDLER = """
trap '' TERM
while pidof dd; do usleep 1000; done
while :; do kill -TERM -1; usleep 5000; done
"""


def test_a_guest_that_is_pressed_twice_goes_off(machine: Machine) -> None:
    """ACPI's button ends it, and QEMU with it; a second handler of the button does not stop it."""
    detached = "</dev/null >/dev/null 2>&1 &"
    machine.ssh(f"cat >/tmp/second <<'end'\n{SECOND_HANDLER}end\nsetsid sh /tmp/second {detached}")
    machine.qmp("system_powerdown")
    machine.qmp("system_powerdown")
    machine.process.wait(timeout=10)
    assert "reboot: Power down" in machine.serial


def past_the_timer(starved: Machine) -> bool:
    """Return whether the kernel has done with its timer, for better or worse."""
    return "timer not connected" in starved.serial or "Calibrating delay loop" in starved.serial


def caught_early(command: list[str], home: Path) -> Machine:
    """Start QEMU until it can be stopped between its kernel's first words and the timer."""
    for _ in range(5):
        (home / "serial").unlink(missing_ok=True)
        process = subprocess.Popen([*IN_NAMESPACE, *command], stdin=subprocess.DEVNULL)
        caught = Machine(process, home)
        wait_for(lambda caught=caught: caught.serial, BOOT, "the kernel's first words", pause=0)
        process.send_signal(signal.SIGSTOP)
        if not past_the_timer(caught):
            return caught
        process.kill()
        process.wait()
    raise AssertionError("five guests were too fast")


def test_boots_on_a_starved_host(built: Path, tmp_path: Path) -> None:
    """A kernel that holds QEMU's timer against the clock panics here, in most of its boots."""
    (tmp_path / "key.pub").write_text("", "utf-8")
    disk = tmp_path / "disk.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", disk, "1M"], check=True)
    command = qemu(built, tmp_path)
    # The last one counts: from here on the kernel tells how far it is.
    command[command.index("-append") + 1] += " loglevel=7"
    starved = caught_early(command, tmp_path)
    try:

        def through() -> bool:
            starved.process.send_signal(signal.SIGCONT)
            time.sleep(RUNS)
            starved.process.send_signal(signal.SIGSTOP)
            return past_the_timer(starved)

        wait_for(through, BOOT, "a kernel that has done with its timer", pause=STILL)
        # The first of the four ways that Linux tries; it panics after the last.
        assert "timer not connected" not in starved.serial, starved.serial[-2000:]
        starved.process.send_signal(signal.SIGCONT)
        wait_for(lambda: "qemulab: booted" in starved.serial, BOOT, "the guest's report")
    finally:
        starved.process.kill()
        starved.process.wait()
