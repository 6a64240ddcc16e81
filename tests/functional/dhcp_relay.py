"""
Ask a DHCP server for one address after another as a relay does, and print what it said as JSON.

Run by ``test_dnsmasq.py`` in a network namespace of its own.
"""

from __future__ import annotations

import ipaddress
import json
import os
import socket
import struct
import subprocess
import sys
import time
from typing import Any

COOKIE = b"\x63\x82\x53\x63"
HOST_NAME, LEASE_TIME, REQUESTED, KIND, SERVER, WANTED, END = 12, 51, 50, 53, 54, 55, 255
DISCOVER, OFFER, REQUEST, ACK = 1, 2, 3, 5
"""Source: RFC 2132"""
TIMEOUT = 5.0


def message(kind: int, mac: str, relay: str, options: dict[int, bytes]) -> bytes:
    """Return a client's message as a relay hands it on. Source: RFC 2131, figure 1"""
    hardware = bytes.fromhex(mac.replace(":", ""))
    head = struct.pack("!BBBBIHH", 1, 1, 6, 1, int.from_bytes(hardware[2:], "big"), 0, 0)
    addresses = bytes(12) + socket.inet_aton(relay)
    text = b"".join(bytes([code, len(value)]) + value for code, value in options.items())
    kinds = bytes([KIND, 1, kind, WANTED, 2, HOST_NAME, LEASE_TIME])
    return (
        head + addresses + hardware.ljust(16, b"\0") + bytes(192) + COOKIE + kinds + text + b"\xff"
    )


def answered(sock: socket.socket, server: str, sent: bytes) -> tuple[str, dict[int, bytes]]:
    """Send a message and return the answer's address and options."""
    sock.sendto(sent, (server, 67))
    answer = sock.recv(2048)
    assert answer[4:8] == sent[4:8], "an answer to another question"
    options: dict[int, bytes] = {}
    rest = answer[240:]
    while rest and rest[0] != END:
        if rest[0] == 0:
            rest = rest[1:]
            continue
        options[rest[0]] = rest[2 : 2 + rest[1]]
        rest = rest[2 + rest[1] :]
    return socket.inet_ntoa(answer[16:20]), options


def leased(sock: socket.socket, server: str, relay: str, mac: str) -> list[Any]:
    """Return the address that a machine gets, with its name and how long it is good for."""
    address, options = answered(sock, server, message(DISCOVER, mac, relay, {}))
    wanted = {REQUESTED: socket.inet_aton(address), SERVER: options[SERVER]}
    address, options = answered(sock, server, message(REQUEST, mac, relay, wanted))
    assert options[KIND] == bytes([ACK]), "not acknowledged"
    name = options.get(HOST_NAME, b"").decode()
    return [address, name, int.from_bytes(options[LEASE_TIME], "big")]


def run(*commands: str) -> None:
    """Run commands, each of which must succeed."""
    for command in commands:
        subprocess.run(command.split(), check=True)


def main(interface: str) -> None:
    """Make the network, with a relay in a namespace of its own at its far end; serve, and ask."""
    asked = json.load(sys.stdin)
    near = ipaddress.IPv4Interface(asked["address"])
    command = ["unshare", "--net", sys.executable, "-I", __file__, "far", str(near)]
    far = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + TIMEOUT
    while os.readlink(f"/proc/{far.pid}/ns/net") == os.readlink("/proc/self/ns/net"):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    run(
        f"ip link add {interface} type veth peer name far netns {far.pid}",
        f"ip address add {near} dev {interface}",
        f"ip link set {interface} up",
    )
    with subprocess.Popen(asked["server"], stderr=subprocess.DEVNULL) as server:
        try:
            said, _ = far.communicate(json.dumps(asked["macs"]), timeout=100)
            print(said)
        finally:
            server.terminate()


def at_the_far_end(near: str) -> None:
    """Ask the server at the other end of the cable for all."""
    macs = json.load(sys.stdin)  # and with it there is the cable
    network = ipaddress.IPv4Interface(near).network
    server, relay = near.partition("/")[0], str(network.broadcast_address - 1)
    run(f"ip address add {relay}/{network.prefixlen} dev far", "ip link set far up")
    print(json.dumps(all_of(macs, server, relay)))


def ready(server: str) -> None:
    """Wait until the server answers: it has the DHCP port before it has that of DNS."""
    deadline = time.monotonic() + TIMEOUT
    while True:
        try:
            socket.create_connection((server, 53), 1).close()
            return
        except OSError:
            assert time.monotonic() < deadline, "no server"
            time.sleep(0.05)


def all_of(macs: dict[str, str], server: str, relay: str) -> dict[str, Any]:
    """Return what each machine is leased, and what each name resolves to."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(TIMEOUT)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((relay, 67))
        ready(server)
        found = {}
        for name, mac in macs.items():
            try:
                found[name] = leased(sock, server, relay, mac)
            except (TimeoutError, KeyError) as err:
                found[name] = [repr(err)]
    dig = ["dig", "+short", "+time=2", "+tries=2", f"@{server}"]
    words = [word for name in macs for word in ("-q", f"{name}.")]
    said = subprocess.run([*dig, *words], capture_output=True, text=True, check=False).stdout
    return {"leased": found, "resolved": dict(zip(macs, said.split(), strict=False))}


if __name__ == "__main__":
    if sys.argv[1] == "far":
        at_the_far_end(sys.argv[2])
    else:
        main(sys.argv[1])
