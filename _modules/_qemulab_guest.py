"""
What the built-in guest is made of: pure text and lists.

The built-in guest is the small Linux that a machine boots when the pillar gives it nothing else:
a kernel and its virtio modules, busybox and dropbear. Everything here is a value; the file that
reads the host and writes the image is ``_qemulab_image.py``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

FORMAT = "1"
"""How the parts are put together: to be changed with the builder."""

FW_CFG_KEYS = "opt/qemulab/authorized_keys"
"""Name of QEMU's ``-fw_cfg`` item with the public keys that may log in as root."""

FW_CFG_HOSTNAME = "opt/qemulab/hostname"
"""Name of the optional ``-fw_cfg`` item with the host name until DHCP gives one."""

#: Loaded before anything else: the NICs, entropy for SSH, the keys' way in, the power button.
EARLY_MODULES = (
    "virtio_pci",
    "virtio_net",
    "virtio_rng",
    "qemu_fw_cfg",
    "button",
    "evdev",
)

#: Loaded while DHCP is under way: other NICs and every disk that QEMU can offer.
LATE_MODULES = (
    "virtio_blk",
    "virtio_scsi",
    "sd_mod",
    "sr_mod",
    "ata_piix",
    "ahci",
    "nvme",
    "e1000",
    "e1000e",
    "virtio_console",
    "virtio_balloon",
    "loop",
)

#: Only carried: the kernel asks modprobe for them when somebody mounts what needs them.
LAZY_MODULES = (
    "ext4",
    "crc32c_generic",
    "vfat",
    "isofs",
    "nls_cp437",
    "nls_ascii",
    "nls_iso8859_1",
    "nls_utf8",
    "squashfs",
    "overlay",
    "9p",
    "9pnet_virtio",
)

WANTED_MODULES = EARLY_MODULES + LATE_MODULES + LAZY_MODULES
"""Every module that the image carries where the kernel has it."""

REQUIRED_MODULES = (
    "virtio_pci",
    "virtio_net",
    "qemu_fw_cfg",
    "button",
    "evdev",
    "sd_mod",
    "ext4",
)
"""A kernel without these (built in or as modules) cannot be the built-in guest's."""

REQUIRED_APPLETS = (
    "acpid",
    "awk",
    "init",
    "ip",
    "modprobe",
    "mount",
    "poweroff",
    "sh",
    "udhcpc",
)
"""What busybox must be able to do; smaller builds of it lack one or the other."""


def kernel_arguments(accel: str) -> str:
    """
    Return the kernel's command line for ``-append``.

    accel
        ``kvm`` or ``tcg``.

    Kernel messages from *error* upwards go to the serial console and, where there is one, to the
    screen; the guest's own reports go to the serial console.
    """
    return " ".join(
        [
            "console=tty0",
            "console=ttyS0,115200",
            "loglevel=4",
            # A lab's guest trusts what runs in it, and under TCG each of these costs boot time.
            "mitigations=off",
            "cryptomgr.notests=1",
            "audit=0",
            "apparmor=0",
            # Without KVM, Linux measures how fast the time stamp counter runs. A host that is busy
            # at that moment spoils it (measured: 69, 153 and 398 MHz for 2596), and then the clock
            # runs as much too fast. QEMU's HPET needs no measuring, and costs a boot nothing
            # (measured: 2.9 s of CPU time with either). KVM says how fast the counter runs.
            "tsc=reliable" if accel == "kvm" else "tsc=unstable",
            # Linux waits some 60 ms, four times, for five ticks of QEMU's timer, then panics: what
            # a busy host does to it (measured: 19 of 20 boots with 4 % of a core). On KVM, Linux
            # leaves the check out by itself.
            "no_timer_check",
        ]
    )


def init_script() -> str:
    """Return ``/init``: what runs first, ends by becoming busybox's init."""
    return _INIT


def udhcpc_script() -> str:
    """Return the script that udhcpc calls with what happened to a NIC's lease."""
    return _UDHCPC


def text_files() -> dict[str, tuple[int, str]]:
    """Return the image's own text files: absolute path to (mode, text)."""
    return {
        "/init": (0o755, init_script()),
        "/etc/udhcpc/default.script": (0o755, udhcpc_script()),
        "/etc/inittab": (0o644, _INITTAB),
        "/etc/down": (0o644, _DOWN),
        # Where busybox's acpid looks for the power button's handler.
        "/etc/acpi/PWRF/00000080": (0o755, _POWER_BUTTON),
        # What mount tries where nobody says the type; the kernel then asks for the module.
        "/etc/filesystems": (0o644, "ext4\niso9660\nvfat\nsquashfs\n"),
        "/etc/passwd": (0o644, "root:x:0:0:root:/root:/bin/sh\n"),
        "/etc/shadow": (0o600, "root:*:0:0:99999:7:::\n"),
        "/etc/group": (0o644, "root:x:0:\ntty:x:5:\n"),
        "/etc/shells": (0o644, "/bin/sh\n"),
        "/etc/hosts": (0o644, "127.0.0.1 localhost\n::1 localhost\n"),
        "/etc/nsswitch.conf": (0o644, "passwd: files\ngroup: files\nhosts: files dns\n"),
        "/etc/profile": (0o644, _PROFILE),
        "/etc/os-release": (0o644, f'NAME="qemulab guest"\nID=qemulab\nVERSION_ID="{RECIPE}"\n'),
    }


def links(applets: Iterable[str]) -> dict[str, str]:
    """
    Return the image's symbolic links: absolute path to target.

    applets
        What ``busybox --list`` prints.
    """
    table = {f"/bin/{name}": "busybox" for name in applets if name != "busybox"}
    table["/bin/ssh"] = "dbclient"
    table["/sbin"] = "bin"
    table["/usr/bin"] = "../bin"
    table["/usr/sbin"] = "../bin"
    table["/var/run"] = "/run"
    table["/var/log"] = "/tmp"
    table["/etc/resolv.conf"] = "/run/resolv.conf"
    table["/etc/mtab"] = "/proc/mounts"
    return table


#: Directories that hold nothing in the image: mount points and what programs expect.
DIRECTORIES = {
    "/dev": 0o755,
    "/etc/dropbear": 0o700,
    "/mnt": 0o755,
    "/proc": 0o755,
    "/root": 0o700,
    "/root/.ssh": 0o700,
    "/run": 0o755,
    "/sys": 0o755,
    "/tmp": 0o1777,
}


# Modules


def module_name(path: str) -> str:
    """Return a module's name from its file's: ``a/virtio-rng.ko.xz`` is ``virtio_rng``."""
    return path.rpartition("/")[2].partition(".ko")[0].replace("-", "_")


def built_in(modules_builtin: str) -> set[str]:
    """Return the names of the modules that a kernel has built in, from ``modules.builtin``."""
    return {module_name(line) for line in modules_builtin.split()}


def _dependencies(modules_dep: str) -> dict[str, tuple[str, list[str]]]:
    """Return each module's path and the names it needs, by name."""
    table: dict[str, tuple[str, list[str]]] = {}
    for line in modules_dep.splitlines():
        path, colon, needs = line.partition(":")
        if colon:
            table[module_name(path)] = (path, [module_name(need) for need in needs.split()])
    return table


def load_order(modules_dep: str, wanted: Iterable[str]) -> list[str]:
    """
    Return the files of the wanted modules and of all they need, each after what it needs.

    modules_dep
        The text of ``modules.dep``.

    wanted
        Module names; ``-`` and ``_`` are the same. One that the kernel does not have as a module
        (it is built in, or not made) is left out.
    """
    table = _dependencies(modules_dep)
    order: list[str] = []
    seen: set[str] = set()

    def visit(name: str) -> None:
        if name in seen or name not in table:
            return
        seen.add(name)
        path, needs = table[name]
        for need in needs:
            visit(need)
        order.append(path)

    for name in wanted:
        visit(module_name(name))
    return order


def missing_modules(modules_dep: str, modules_builtin: str) -> list[str]:
    """Return the required modules that a kernel has neither as modules nor built in."""
    have = set(_dependencies(modules_dep)) | built_in(modules_builtin)
    return [name for name in REQUIRED_MODULES if name not in have]


def plain_path(path: str) -> str:
    """Return a module's path as it is in the image: never compressed."""
    head, dot, _ = path.partition(".ko")
    return head + dot


def module_tables(modules_dep: str, modules_alias: str) -> dict[str, str]:
    """
    Return the carried modules' ``modules.*`` files (name to text), for the guest's modprobe.

    modules_dep, modules_alias
        The kernel's whole tables, as depmod writes them.
    """
    table = _dependencies(modules_dep)
    carried = load_order(modules_dep, WANTED_MODULES)
    names = {module_name(path) for path in carried}
    dep = []
    for path in carried:
        needs = [plain_path(table[need][0]) for need in table[module_name(path)][1]]
        dep.append(" ".join([f"{plain_path(path)}:", *needs]))
    # Only what the kernel asks for by name (fs-vfat, crypto-crc32c): a colon is in hardware's.
    aliases = [
        line
        for line in modules_alias.splitlines()
        if line.startswith("alias ") and ":" not in line and module_name(line.split()[-1]) in names
    ]
    return {
        "modules.dep": "\n".join(dep) + "\n",
        "modules.alias": "\n".join(aliases) + "\n",
    }


def module_lists(modules_dep: str) -> dict[str, str]:
    """Return ``/etc/modules.early`` and ``.late``: the names to load, those that the image has."""
    have = _dependencies(modules_dep)
    lists = {"/etc/modules.early": EARLY_MODULES, "/etc/modules.late": LATE_MODULES}
    return {
        path: "".join(f"{name}\n" for name in names if name in have)
        for path, names in lists.items()
    }


def libraries(ldd: str) -> list[str]:
    """
    Return the files that a program is linked with, its loader included.

    ldd
        What ``ldd PROGRAM`` prints; nothing is returned for a static one.

    Raises ValueError, with the library's name, where one is not found.
    """
    found = []
    for line in ldd.splitlines():
        words = line.split()
        if "=>" in words and "not found" in line:
            raise ValueError(words[0])
        # "libc.so.6 => /lib/libc.so.6 (0x…)" or "/lib64/ld-linux-x86-64.so.2 (0x…)"
        paths = [word for word in words if word.startswith("/") and not word.endswith(":")]
        if paths:
            found.append(paths[-1])
    return found


# What the guest runs

_INIT = r"""#!/bin/sh
# PID 1 of the built-in guest: make the house, open the door, then become busybox's init.
export PATH=/bin HOME=/root
mount -t devtmpfs dev /dev
exec </dev/console >/dev/console 2>&1
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t tmpfs -o mode=755 run /run
mount -t tmpfs tmp /tmp
mkdir -p /dev/pts /dev/shm /run/resolv /run/lease
mount -t devpts -o gid=5,mode=620,ptmxmode=666 pts /dev/pts
ln -s /proc/self/fd /dev/fd
: >/run/resolv.conf

# Names that the kernel has built in are no fault.
modprobe -a $(cat /etc/modules.early) 2>/dev/null

# What QEMU hands over with -fw_cfg; no key is in the image, so without these nobody logs in.
handed=/sys/firmware/qemu_fw_cfg/by_name/opt/qemulab
if [ -e $handed/authorized_keys/raw ]; then
    (umask 077 && cat $handed/authorized_keys/raw >/root/.ssh/authorized_keys)
fi
name=$(cat $handed/hostname/raw 2>/dev/null)
hostname "${name:-guest}"

# Disks, and what else QEMU may offer, while DHCP is under way. OVMF starts a kernel that it is
# handed before it has switched the PIIX IDE channels on, and ata_piix passes over channels that are
# off: bit 15 of the registers at 0x40 and 0x42, as the firmware sets it on its way to a disk.
{
    for device in /sys/bus/pci/devices/*; do
        read -r id <"$device/modalias"
        case $id in pci:v00008086d00007010*)
            printf '\000\200\000\200' | dd of="$device/config" bs=1 seek=64 conv=notrunc
        esac
    done
    modprobe -a $(cat /etc/modules.late)
} 2>/dev/null &
devices=$!

# Addresses come by DHCP alone: nobody is asked for IPv6 routers.
for setting in /proc/sys/net/ipv6/conf/*/router_solicitations; do
    [ ! -e "$setting" ] || echo 0 >"$setting"
done
ip link set lo up

# Asked until somebody answers, every second at first, on every NIC at once.
for nic in /sys/class/net/*; do
    [ -e "$nic/device" ] || continue
    nic=${nic##*/}
    ip link set "$nic" up
    udhcpc -f -i "$nic" -t 5 -T 1 -A 2 -O search </dev/null >/dev/null 2>&1 &
done

# Whoever logs in finds the disks. dropbear goes into the background when it listens, and makes its
# host keys at the first login.
wait $devices
dropbear -R -s && echo "qemulab: ssh ready"
acpid -l /dev/null

# Enter starts a root shell on each console that is really there: the kernel has device nodes for
# absent ones too. Without the question, the prompts of nobody's shell would fill the log.
for console in ttyS0 hvc0 tty1; do
    stty -F /dev/$console >/dev/null 2>&1 && echo "$console::askfirst:-/bin/sh"
done >>/etc/inittab

echo "qemulab: booted"
exec init
"""

_UDHCPC = r"""#!/bin/sh
# Called by udhcpc: $1 is what happened, the lease's fields are in the environment.
lease=/run/lease/$interface

# What every NIC was told about names, in one file. A server that knows this machine's name knows
# its neighbours' too, so it is asked first (0-…): a resolver believes the first "no such name".
merge_resolvers() {
    until mkdir /run/resolv.lock 2>/dev/null; do usleep 20000; done
    cat /run/resolv/* 2>/dev/null | awk '
        $1 == "search" { for (i = 2; i <= NF; i++) if (!seen[$i]++) search = search " " $i; next }
        !seen[$0]++
        END { if (search) print "search" search; print "options timeout:2" }
    ' >/run/resolv.conf.new
    mv /run/resolv.conf.new /run/resolv.conf
    rmdir /run/resolv.lock
}

forget() {
    ip -4 addr flush dev "$interface"
    rm -f "$lease" /run/resolv/?-"$interface"
    merge_resolvers
}

bind() {
    fields="$ip/${mask:-24} $router,$dns,$search,$domain,$hostname"
    # A renewal that changes nothing touches nothing.
    [ "$(cat "$lease" 2>/dev/null)" = "$fields" ] && return
    case "$(cat "$lease" 2>/dev/null)" in
        "$ip/${mask:-24} "*) while ip route del default dev "$interface" 2>/dev/null; do :; done ;;
        *) ip -4 addr flush dev "$interface"
           ip addr add "$ip/${mask:-24}" broadcast + dev "$interface" ;;
    esac

    # Of several default routes the last NIC's wins. A machine is not its own router.
    metric=$((1024 - $(cat "/sys/class/net/$interface/ifindex")))
    for hop in $router; do
        [ "$hop" = "$ip" ] && continue
        ip route add default via "$hop" dev "$interface" metric $metric && break
    done

    rm -f /run/resolv/?-"$interface"
    rank=1
    if [ -n "$hostname" ]; then
        rank=0
        hostname "$hostname"
    fi
    {
        for server in $dns; do echo "nameserver $server"; done
        [ -z "$search$domain" ] || echo "search ${search:-$domain}"
    } >"/run/resolv/$rank-$interface"
    merge_resolvers
    echo "$fields" >"$lease"
    echo "qemulab: $interface $ip/${mask:-24} name $(hostname)" >/dev/console
}

case "$1" in
    deconfig) forget ;;
    bound | renew) bind ;;
esac
"""

_INITTAB = """# The consoles' lines are added at boot; SSH, ACPI and DHCP run by themselves.
::ctrlaltdel:/bin/reboot
::shutdown:/bin/sh /etc/down
"""

_DOWN = r"""# Run by init on its way down, and read by the power button's handler: end all but
# init and whoever reads this, then put the disks to rest.
kill -TERM -1
usleep 100000
kill -KILL -1
sync
umount -a -r 2>/dev/null
"""

_POWER_BUTTON = r"""#!/bin/sh
# Each press starts this anew, and two would end each other (measured: a guest in four that was
# pressed twice within 30 ms stayed up). The first alone goes on, and nothing ends it.
trap '' TERM
mkdir /run/down 2>/dev/null || exit 0
# busybox's own poweroff waits two seconds that a machine told to stop need not take.
. /etc/down
exec busybox poweroff -f
"""

_PROFILE = r"""export HOME=/root TERM="${TERM:-linux}"
export PS1='\u@\h:\w# '
alias ll='ls -l'
cd
"""

RECIPE = hashlib.sha256(
    "\0".join(
        (FORMAT, _INIT, _UDHCPC, _INITTAB, _DOWN, _POWER_BUTTON, _PROFILE, *WANTED_MODULES)
    ).encode()
).hexdigest()[:12]
"""What an image was built by: a built image of another recipe is built again."""
