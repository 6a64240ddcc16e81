#!/bin/bash
# A throw-away host's first process: makes an overlay its root, prints its own number in the tests'
# PID namespace, and becomes PID 1. harness.py runs its text (it is no file that stays open) in
# namespaces of its own, with these arguments:
#
#   DIR systemd|supervisord CHECKOUT SHARED RESOLVER LOWER [DISK]
#
# DISK holds what an earlier host had written: this one is that one after a reboot.
set -e
base=$1 init=$2 checkout=$3 shared=$4 resolver=$5 disk=${7:-}
read -r pid _ < /proc/self/stat
mount --make-rprivate /
mount -t tmpfs overlay "$base"
ln -s "$6" "$base/lower"                        # a path without characters that mount reads
root=$base/root
mkdir -p "$base"/{upper,work,root,checkout-upper,checkout-work}
[ -z "$disk" ] || cp -a "$disk/." "$base/upper"
mount -t overlay overlay -o "lowerdir=$base/lower,upperdir=$base/upper,workdir=$base/work" "$root"
mount -t proc proc "$root/proc"
mount -t sysfs sysfs "$root/sys"
mount -t tmpfs run "$root/run"
mount -t tmpfs tmp "$root/tmp"
mount -t tmpfs -o mode=755 dev "$root/dev"
cp -ax /dev/. "$root/dev"                       # the nodes: hosts that run side by side share none
rm -rf "$root"/dev/{shm/*,qemulab-*}
mount --bind /dev/pts "$root/dev/pts"
mount -t tmpfs shm "$root/dev/shm"
chmod 1777 "$root/tmp" "$root/dev/shm"
if [ ! -e "$root$checkout/salt-call" ]; then    # it lies below /tmp, or on a file system of its own
    mkdir -p "$root$checkout"
    ln -s "$checkout" "$base/checkout"
    mount -t overlay overlay "$root$checkout" \
        -o "lowerdir=$base/checkout,upperdir=$base/checkout-upper,workdir=$base/checkout-work"
fi
if [ -d "$root/venv" ]; then                    # another system's, for another Python
    mount --bind "$root/venv" "$root$checkout/.venv"
fi
mkdir -p "$root$shared"
mount --bind "$shared" "$root$shared"

# A lab that the developer runs on this machine is not this host's.
if [ -z "$disk" ]; then
    rm -rf "$root"/{etc,var/lib,var/log}/qemulab "$root"/etc/systemd/system/{,*.wants/}qemulab*
    sed -i '/^qemulab:/d' "$root"/etc/{passwd,shadow,group,gshadow}
fi
hostname throw-away
echo throw-away > "$root/etc/hostname"
rm -f "$root/etc/resolv.conf"
echo "nameserver $resolver" > "$root/etc/resolv.conf"
printf "127.0.0.1 localhost throw-away\n::1 localhost\n" > "$root/etc/hosts"
ip link set lo up

if [ "$init" = systemd ]; then
    mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
    units=$root/etc/systemd/system
    printf '[Unit]\nRequires=basic.target\nAfter=basic.target\nAllowIsolate=yes\n' \
        > "$units/nested.target"
    # There is no device to manage. Timers would start what no test asked for.
    for unit in systemd-udevd.service systemd-udevd-control.socket systemd-udevd-kernel.socket \
                systemd-udev-trigger.service systemd-tmpfiles-setup-dev.service timers.target; do
        ln -sf /dev/null "$units/$unit"
    done
    : > "$root/etc/tmpfiles.d/tmp.conf"         # Debian's own empties /tmp, where the shared is
    tr -d - < /proc/sys/kernel/random/uuid > "$root/etc/machine-id"
fi
mkdir -p -m 700 "$root/written"
mount --bind "$base/upper" "$root/written"
cd "$root"
mkdir -p old
pivot_root . old
umount -l /old
rmdir /old
echo "$pid"
if [ "$init" = systemd ]; then
    export container=nested
    exec /lib/systemd/systemd --system --unit=nested.target --log-target=null --show-status=no \
        < /dev/null > /dev/null 2>&1
fi
# bash reaps whatever it inherits. Its input ends with the tests, and every process here with it.
exec > /dev/null 2>&1
while read -r _; do :; done
exit                                            # keeps bash from replacing itself
