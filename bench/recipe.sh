#!/bin/bash
# The recipe's own commands for three machines, as a shell script: what ./salt-call state.apply lab
# is measured against. They are as the recipe has them but where a comment says why not.
#
#   recipe.sh start DIR   make the lab in the empty directory DIR; ends when all three answer QMP
#   recipe.sh stop DIR    end what was started
#
# Nothing of it cleans up after a crash, runs as another user or can be run twice: nor does the recipe.
#
#   GUEST            directory with the built-in guest's vmlinuz and initrd
#   KERNEL_ARGUMENTS the built-in guest's command line
#   AUTHORIZED_KEYS  file with the public keys that it lets in
#   HOST_KEY         file with the private key that it is known by; else it makes one at each boot
#   ACCEL            kvm or tcg
#   OVMF_CODE, OVMF_VARS  the firmware's two files
set -eu
GUEST=${GUEST:-/var/lib/qemulab/guest}
KERNEL_ARGUMENTS=${KERNEL_ARGUMENTS:-console=ttyS0,115200}
AUTHORIZED_KEYS=${AUTHORIZED_KEYS:-$HOME/.ssh/authorized_keys}
HOST_KEY=${HOST_KEY:-}
ACCEL=${ACCEL:-tcg}
OVMF_CODE=${OVMF_CODE:-/usr/share/OVMF/OVMF_CODE_4M.fd}
OVMF_VARS=${OVMF_VARS:-/usr/share/OVMF/OVMF_VARS_4M.fd}

# Print when a process was started, in the kernel's ticks: with its number, that names it for good.
started() { # PID
    local line
    read -ra line <<<"$(sed "s/.*) //" "/proc/$1/stat")" && printf "%s\n" "${line[19]}"
} 2>/dev/null

# Run a command in the background, and keep what stop needs to find it.
background() { # NAME COMMAND...
    local name=$1
    shift
    "$@" >"$name.log" 2>&1 </dev/null &
    printf '%s %s %s\n' "$!" "$(started "$!")" "$name" >>pids
}

network() {
    # bind=:1234            was sourceport=1234, which socat 1.7.4 ignores for datagrams: it binds a
    #                       random port and hears no machine.
    # ip-multicast-if       was left to the default route: without one, "Network is unreachable".
    background socat socat \
        UDP4-DATAGRAM:230.0.0.1:1234,bind=:1234,reuseaddr,ip-add-membership=230.0.0.1:127.0.0.1,ip-multicast-if=127.0.0.1 \
        TUN:10.0.3.1/24,tun-type=tap,iff-no-pi,iff-up,tun-name=vmlan

    # The recipe's reader looks with "ip a s" whether the interface is there before he goes on.
    for _ in {1..500}; do
        [ -z "$(ip -4 -o address show dev vmlan 2>/dev/null)" ] || break
        sleep 0.01
    done

    # --conf-file           was none: dnsmasq reads the host's own /etc/dnsmasq.conf, if there is one.
    background dnsmasq dnsmasq --no-daemon \
        --conf-file=/dev/null \
        --interface=vmlan \
        --except-interface=lo \
        --except-interface=em1 \
        --bind-interfaces \
        --dhcp-range=10.0.3.100,10.0.3.200 \
        --dhcp-option=option:router,10.0.3.101 \
        --dhcp-host=00:00:00:11:11:11,10.0.3.101,master \
        --dhcp-host=00:00:00:22:22:22,10.0.3.102,worker1 \
        --dhcp-host=00:00:00:33:33:33,10.0.3.103,worker2 \
        --host-record=master,10.0.3.101

    # The firmware lies elsewhere on other distributions.
    cp "$OVMF_CODE" ovmf-x86_64-code.bin
    cp "$OVMF_VARS" ovmf-x86_64-vars.bin
}

machine() { # NAME MAC-TAIL SSH-PORT
    cp -af ovmf-x86_64-vars.bin "ovmf-x86_64-vars-$1.bin"
    qemu-img create -f qcow2 "hda-$1.qcow2" 50G >"qemu-img-$1.log"

    # -accel                was -enable-kvm, which fails or hangs where the CPU is itself emulated.
    # localaddr=127.0.0.1   as ip-multicast-if above: "can't add socket to multicast group".
    # readonly=on           was readonly, which QEMU no longer likes ("short-form … deprecated").
    # -display none         was a window: there is no screen.
    # no -cdrom, -kernel…   so that the same guest boots as in qemulab's machines, with the same keys.
    # -qmp                  so that it can be asked whether QEMU answers.
    background "$1" qemu-system-x86_64 -m 2048 -accel "$ACCEL" \
        -netdev socket,id=vmlan,mcast=230.0.0.1:1234,localaddr=127.0.0.1 \
        -device "virtio-net-pci,netdev=vmlan,mac=00:00:00:$2" \
        -netdev "user,id=net0,hostfwd=tcp::$3-:22" \
        -device "virtio-net-pci,netdev=net0,mac=10:00:00:$2" \
        -hda "hda-$1.qcow2" \
        -drive if=pflash,format=raw,unit=0,readonly=on,file=./ovmf-x86_64-code.bin \
        -drive "if=pflash,format=raw,unit=1,file=./ovmf-x86_64-vars-$1.bin" \
        -smp 2 \
        -boot d \
        -display none \
        -kernel "$GUEST/vmlinuz" -initrd "$GUEST/initrd" -append "$KERNEL_ARGUMENTS" \
        -fw_cfg "name=opt/qemulab/authorized_keys,file=$AUTHORIZED_KEYS" \
        ${HOST_KEY:+-fw_cfg "name=opt/qemulab/ssh_host_ed25519_key,file=$HOST_KEY"} \
        -qmp "unix:qmp-$1.sock,server=on,wait=off"
}

# Wait until a machine greets on its QMP socket, for 20 seconds at most.
answers() { # NAME
    local greeting='' asker
    exec {answer}< <(exec socat -u "UNIX-CONNECT:qmp-$1.sock,retry=2000,interval=0.01" - 2>/dev/null)
    asker=$!
    read -r -t 20 -u "$answer" greeting || true
    exec {answer}<&-
    kill "$asker" 2>/dev/null || true
    case $greeting in
        *QMP*) ;;
        *) tail -n 5 socat.log dnsmasq.log "$1.log" >&2; return 1 ;;
    esac
}

start() {
    network
    machine master 11:11:11 10022
    machine worker1 22:22:22 10023
    machine worker2 33:33:33 10024
    answers master
    answers worker1
    answers worker2
}

stop() {
    local pid when name
    [ -e pids ] || return 0
    while read -r pid when name; do
        # The number may be another process's by now.
        [ "$(started "$pid")" != "$when" ] || kill "$pid" 2>/dev/null || true
    done <pids
    rm -f pids
}

usage() { sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0" >&2; exit 2; }

[ $# = 2 ] || usage
case $1 in
    start | stop) cd "$2" && "$1" ;;
    *) usage ;;
esac
