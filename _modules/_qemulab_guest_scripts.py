"""
What the built-in guest runs: its scripts and configuration, as texts. Pure.

They ask nothing of busybox that openSUSE's build of it lacks: that has neither ``init`` nor
``acpid``, ``getty``, ``cttyhack`` or a default script for ``udhcpc``, and ``sleep`` takes no
fractions. Source: busybox.config of openSUSE Factory, busybox 1.37.0
"""

from __future__ import annotations

INIT = r"""#!/bin/sh
# PID 1 of the built-in guest: make the house, open the door, and stay.
export PATH=/bin HOME=/root
mount -t devtmpfs dev /dev
exec </dev/console >/dev/console 2>&1
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t tmpfs -o mode=755 run /run
mount -t tmpfs tmp /tmp
mkdir -p /dev/pts /dev/shm /run/resolv /run/lease /run/sshd
mount -t devpts -o gid=5,mode=620,ptmxmode=666 pts /dev/pts
ln -s /proc/self/fd /dev/fd
: >/run/resolv.conf

# Ctrl-Alt-Del, and what busybox's own poweroff and reboot tell an init. Their names alone would
# mean those: a shell of busybox may look at its own programs first.
echo 0 >/proc/sys/kernel/ctrl-alt-del
trap /bin/reboot INT TERM
trap /bin/poweroff USR1 USR2

# Names that the kernel has built in are no fault.
modprobe -a $(cat /etc/modules.early) 2>/dev/null

# What QEMU hands over with -fw_cfg; no key is in the image, so without these nobody logs in.
handed=/sys/firmware/qemu_fw_cfg/by_name/opt/qemulab
take() { [ -e "$handed/$1/raw" ] && (umask 077 && cat "$handed/$1/raw" >"$2"); }
take authorized_keys /root/.ssh/authorized_keys
# Who is handed none (a machine that was started by hand) is another one at each boot.
host_key=/etc/ssh/ssh_host_ed25519_key
take ssh_host_ed25519_key $host_key || ssh-keygen -q -t ed25519 -N '' -f $host_key
name=$(cat $handed/hostname/raw 2>/dev/null)
hostname "${name:-guest}"

# The power button: one event of the kernel's is a press. Source: input.h, struct input_event
# Whoever else ends all processes leaves it alone.
for device in /sys/class/input/event*; do
    [ "$(cat "$device/device/name" 2>/dev/null)" = "Power Button" ] || continue
    event=/dev/input/${device##*/}
    (trap '' TERM && dd if="$event" of=/dev/null bs=24 count=1 2>/dev/null && exec /bin/poweroff) &
done

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
    udhcpc -f -i "$nic" -s /etc/udhcpc/default.script -t 5 -T 1 -A 2 -O search \
        </dev/null >/dev/null 2>&1 &
done

# Whoever logs in finds the disks. sshd goes into the background before it listens.
wait $devices
if /bin/sshd -f /etc/ssh/sshd_config; then
    left=500
    until grep -q ':0016 00000000:0000 0A' /proc/net/tcp; do
        [ $((left -= 1)) -gt 0 ] || break
        usleep 10000
    done
    echo "qemulab: ssh ready"
fi

# A root shell on each console that is really there: the kernel has device nodes for absent ones
# too. The outer setsid makes a group of its own, so that the inner one forks and does not wait; a
# shell that "&" starts could not be interrupted.
for console in ttyS0 hvc0 tty1; do
    stty -F /dev/$console >/dev/null 2>&1 || continue
    setsid setsid -c /etc/console <>/dev/$console >&0 2>&1
done

echo "qemulab: booted"
# Reaps whatever has lost its parent; a signal ends the wait at once.
while :; do
    sleep 1000 &
    wait $!
done
"""

CONSOLE = r"""#!/bin/sh
# A root shell on this console, for whoever presses Enter: without the question, the prompts of
# nobody's shell would fill the log.
trap : INT
while :; do
    printf '\nPress Enter for a root shell. '
    if read -r _; then sh -l; else sleep 1; fi
done
"""

UDHCPC = r"""#!/bin/sh
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

POWER = r"""#!/bin/sh
# poweroff, halt, reboot: end all but init and this, put the disks to rest, and go. Whoever has
# typed it goes first, and this must not go with them. Two at once would end each other (measured:
# a guest in four that was told twice within 30 ms stayed up): the first alone goes on.
trap '' HUP INT PIPE TERM
mkdir /run/down 2>/dev/null || exit 0
kill -TERM -1
usleep 100000
kill -KILL -1
sync
umount -a -r 2>/dev/null
case $0 in
    *reboot) exec busybox reboot -f ;;
    *) exec busybox poweroff -f ;;
esac
"""

PROFILE = r"""export HOME=/root TERM="${TERM:-linux}"
export PS1="root@$(hostname):\$PWD# "
alias ll='ls -l'
cd
"""

SSHD_CONFIG = """HostKey /etc/ssh/ssh_host_ed25519_key
AuthenticationMethods publickey
PermitRootLogin prohibit-password
PasswordAuthentication no
# SUSE's sshd takes it for yes. Source: openssh-7.7p1-enable_PAM_by_default.patch
UsePAM no
UseDNS no
# Whoever has many keys offers them all; all machines of a lab may log in at once.
MaxAuthTries 20
MaxStartups 100
PrintMotd no
PrintLastLog no
PidFile none
Subsystem sftp internal-sftp
"""
