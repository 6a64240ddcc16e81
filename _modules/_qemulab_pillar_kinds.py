"""
The kinds of values that a pillar may hold: names, addresses, sizes, MAC addresses.

A *kind* reads one value: it returns the value in its one canonical form or says what is allowed.
Pure: neither Salt nor the host.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from typing import Any
from typing import NamedTuple


class Fault(NamedTuple):
    """One thing that is wrong in a declaration: where, and what is allowed there."""

    path: str
    problem: str

    def __str__(self) -> str:
        return f"{self.path}: {self.problem}"


class SpecError(Exception):
    """A declaration is wrong; ``faults`` has everything that is, not only the first."""

    def __init__(self, faults: list[Fault]) -> None:
        self.faults = faults
        super().__init__("\n".join(str(fault) for fault in faults))


class Bad(Exception):
    """A kind refuses a value; the text says what is allowed."""


class Notes:
    """What is found while a declaration is read: faults, and warnings that stop nothing."""

    def __init__(self) -> None:
        self.faults: list[Fault] = []
        self.warnings: list[Fault] = []

    def fault(self, path: str, problem: str) -> None:
        """Note something that is wrong."""
        self.faults.append(Fault(path, problem))

    def warn(self, path: str, problem: str) -> None:
        """Note something that works, but hardly as meant."""
        self.warnings.append(Fault(path, problem))


class Kind(NamedTuple):
    """
    How one value is read.

    name
        What the documentation calls the type.

    parse
        ``(value, path, notes) -> canonical value``; raises Bad.
    """

    name: str
    parse: Callable[[Any, str, Notes], Any]


def show(value: Any) -> str:
    """Return a refused value as a user recognises it, short and on one line."""
    try:
        text = repr(value)
    except ValueError:  # Python writes no number of over 4300 digits; YAML reads one
        text = "this number"
    return text if len(text) <= 60 else f"{text[:57]}..."


def below(path: str, name: Any) -> str:
    """Return the path of a key that the user wrote, whatever it is, on one line."""
    return f"{path}:{name if isinstance(name, str) and name.isprintable() else show(name)}"


ANYTHING = Kind("anything", lambda value, path, notes: value)
"""What is read, and checked, by somebody else."""


# Scalars


def _text(value: Any, what: str) -> str:
    if not isinstance(value, str):
        raise Bad(f"{show(value)} is not text; {what}")
    return value


def pattern(type_name: str, expression: str, allowed: str) -> Kind:
    """Return the kind of a text that a regular expression matches whole."""

    def parse(value: Any, path: str, notes: Notes) -> str:
        # YAML makes numbers and words of 123, on and null.
        unquoted = isinstance(value, bool | int | float)
        text = _text(value, f"put it in quotes; {allowed}" if unquoted else allowed)
        if not re.fullmatch(expression, text):  # compiled when first asked for, then cached
            raise Bad(f"{show(value)} is not allowed; {allowed}")
        return text

    return Kind(type_name, parse)


NAME = pattern(
    "name",
    "[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?",
    "a name has 1 to 32 letters a-z, digits and inner hyphens",
)
NO_INTERFACES = "lo|all|default|bonding_masters"
"""
The host's loopback; what stands for every interface in /proc/sys/net/ipv4/conf (TUNSETIFF then says
``Invalid argument``); a file that the bonding driver has in /sys/class/net. Source: the kernel's
Documentation/networking/ip-sysctl.rst and bonding.rst
"""
INTERFACE = pattern(
    "interface name",
    f"(?!({NO_INTERFACES})$)[a-z][a-z0-9_-]{{0,14}}",
    "an interface name has 1 to 15 characters a-z, 0-9, _, -, begins with a letter and is none of "
    + NO_INTERFACES.replace("|", ", "),
)
HOSTNAME = pattern(
    "host name",
    "(?=.{1,253}$)[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?([.][a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*",
    "a host name has labels of a-z, digits and inner hyphens, with dots between them",
)
CPU_MODEL = pattern(
    "CPU model",
    "[A-Za-z0-9][A-Za-z0-9._-]{0,63}",
    "a CPU model as qemu-system-x86_64 -cpu help lists it",
)


SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
LEASE_LIMITS = 120, 2**31 - 1
"""
Seconds that dnsmasq leases for: it makes 120 of what is less, and keeps them in an int. Source:
dnsmasq 2.90, option.c
"""


def _lease_time(value: Any, path: str, notes: Notes) -> str:
    text = LEASE_FORM.parse(value, path, notes)
    if text == "infinite":
        return str(text)
    seconds = int(text.rstrip("smhdw")) * SECONDS[text.lstrip("0123456789")]
    if not LEASE_LIMITS[0] <= seconds <= LEASE_LIMITS[1]:
        raise Bad(f"{text} is not between 2m and 3550w, which is what dnsmasq leases for")
    return str(text)


LEASE_FORM = pattern(
    "duration",
    "infinite|[1-9][0-9]{0,9}[smhdw]?",
    "a lease time is like 2m, 30m, 12h, 7d or infinite",
)
LEASE_TIME = Kind("duration", _lease_time)


def choice(*allowed: str) -> Kind:
    """Return the kind of a text that is one of a few words."""

    def parse(value: Any, path: str, notes: Notes) -> str:
        if value not in allowed or isinstance(value, bool):
            raise Bad(f"{show(value)} is not one of {', '.join(allowed)}")
        return str(value)

    return Kind(" or ".join(f"`{word}`" for word in allowed), parse)


def integer(low: int, high: int, unit: str = "") -> Kind:
    """Return the kind of a whole number between two bounds, both allowed."""
    allowed = f"a whole number from {low} to {high}{' ' + unit if unit else ''}"

    def parse(value: Any, path: str, notes: Notes) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise Bad(f"{show(value)} is not {allowed}")
        if not low <= value <= high:
            raise Bad(f"{show(value)} is not {allowed}")
        return value

    return Kind("integer", parse)


PORT = integer(1, 65535)


def _boolean(value: Any, path: str, notes: Notes) -> bool:
    if not isinstance(value, bool):
        raise Bad(f"{show(value)} is not true or false")
    return value


BOOLEAN = Kind("boolean", _boolean)

UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def size_bytes(text: str) -> int:
    """Return the bytes that a canonical size such as ``50G`` stands for."""
    return int(text[:-1]) * UNITS[text[-1]]


def size_text(count: int) -> str:
    """Return a number of bytes with the largest unit that divides it; the inverse of size_bytes."""
    for unit in "TGMK":
        if count % UNITS[unit] == 0:
            return f"{count // UNITS[unit]}{unit}"
    return f"{-(-count // 1024)}K"


def _size(value: Any, path: str, notes: Notes) -> str:
    allowed = "a size has a whole number and a unit, such as 512M, 50G or 1T"
    text = _text(value, allowed)
    match = re.fullmatch("([1-9][0-9]{0,11})([KMGT])(i?B)?", text)
    if not match:
        raise Bad(f"{show(value)} is not allowed; {allowed}")
    count = int(match[1]) * UNITS[match[2]]
    if not 2**20 <= count <= 64 * 2**40:
        raise Bad(f"{text} is not between 1M and 64T")
    return size_text(count)


SIZE = Kind("size", _size)


def mac_of_number(number: int) -> str | None:
    """
    Return the MAC address that YAML 1.1 read as a number in base 60, ``None`` where none fits.

    ``10:00:00:11:11:11`` without quotes is the integer 7776040271: six groups of digits in base
    60. Source: https://yaml.org/type/int.html
    """
    groups = []
    for _ in range(5):
        number, group = divmod(number, 60)
        groups.append(group)
    groups.append(number)
    if not 1 <= number <= 99:
        return None
    return ":".join(f"{group:02d}" for group in reversed(groups))


def _mac(value: Any, path: str, notes: Notes) -> str:
    allowed = "a MAC address has six octets in hexadecimal, such as 52:54:00:12:34:56"
    if isinstance(value, int) and not isinstance(value, bool):
        decoded = mac_of_number(value)
        if decoded is None:
            raise Bad(f"{show(value)} is not allowed; {allowed}, in quotes")
        notes.warn(path, f"YAML read this MAC address as the number {value}: quote it, '{decoded}'")
        value = decoded
    text = _text(value, allowed).lower()
    if not re.fullmatch("[0-9a-f]{2}(:[0-9a-f]{2}){5}", text):
        raise Bad(f"{show(value)} is not allowed; {allowed}")
    if int(text[:2], 16) & 1:
        raise Bad(f"{text} is a multicast address; a NIC needs a unicast one (first octet even)")
    if text == "00:00:00:00:00:00":
        raise Bad("a NIC cannot have the MAC address of six zeros")
    return text


MAC = Kind("MAC address", _mac)


def _ipv4(value: Any, path: str, notes: Notes) -> str:
    allowed = "an IPv4 address such as 10.0.3.101"
    try:
        return str(ipaddress.IPv4Address(_text(value, allowed)))
    except ValueError as err:
        raise Bad(f"{show(value)} is not {allowed}") from err


IPV4 = Kind("IPv4 address", _ipv4)


PRIVATE = [ipaddress.IPv4Network(n) for n in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16")]
"""Source: RFC 1918, section 3"""


def _address_with_prefix(value: Any, path: str, notes: Notes) -> str:
    allowed = "the host's address on the network with its prefix length, such as 10.0.3.1/24"
    text = _text(value, allowed)
    try:
        address = ipaddress.IPv4Interface(text)
    except ValueError as err:
        raise Bad(f"{show(value)} is not {allowed}") from err
    network = address.network
    if "/" not in text or not 8 <= network.prefixlen <= 29:
        raise Bad(f"{show(value)} is not {allowed} (8 to 29)")
    if not any(network.subnet_of(block) for block in PRIVATE):
        raise Bad(f"{text} is not in a private network (10/8, 172.16/12 or 192.168/16)")
    if address.ip in (network.network_address, network.broadcast_address):
        raise Bad(f"{address.ip} is not an address for a host in {network}")
    return str(address)


ADDRESS_WITH_PREFIX = Kind("IPv4 address/prefix", _address_with_prefix)


def _range(value: Any, path: str, notes: Notes) -> str:
    allowed = "a range of two addresses such as 10.0.3.100-10.0.3.200"
    first, dash, last = _text(value, allowed).replace(" ", "").partition("-")
    if not dash:
        raise Bad(f"{show(value)} is not {allowed}")
    ends = [ipaddress.IPv4Address(_ipv4(end, path, notes)) for end in (first, last)]
    if ends[0] > ends[1]:
        raise Bad(f"{show(value)} runs backwards; {allowed}")
    return f"{ends[0]}-{ends[1]}"


RANGE = Kind("address range", _range)


def _group(value: Any, path: str, notes: Notes) -> str:
    allowed = "a multicast group and a port such as 230.0.0.1:1234"
    host, colon, port = _text(value, allowed).rpartition(":")
    if not colon or not re.fullmatch("[0-9]{4,5}", port) or not 1024 <= int(port) <= 65535:
        raise Bad(f"{show(value)} is not {allowed} (port 1024 to 65535)")
    try:
        address = ipaddress.IPv4Address(host)
    except ValueError as err:
        raise Bad(f"{show(value)} is not {allowed}") from err
    # 224.0.0.0/24 is the local network control block. Source: RFC 5771, section 4
    if not address.is_multicast or address in ipaddress.IPv4Network("224.0.0.0/24"):
        raise Bad(f"{address} is not a multicast group from 224.0.1.0 to 239.255.255.255")
    return f"{address}:{int(port)}"


GROUP = Kind("group:port", _group)


UNWRITTEN = r"\x00-\x1f\x7f-\x9f\u2028\u2029\ufeff\ud800-\udfff\ufffe\uffff"
"""
What no line of a file can hold, and what YAML does not give back as it was: control characters,
further line breaks, the byte order mark, halves of UTF-16. Source: https://yaml.org/spec/1.1/#c-printable
"""


def _path(value: Any, path: str, notes: Notes) -> str:
    allowed = "an absolute path of a file"
    text = _text(value, allowed)
    if not text.startswith("/") or len(text) > 4096 or re.search(f"[{UNWRITTEN}]", text):
        raise Bad(f"{show(value)} is not {allowed}")
    if ".." in text.split("/"):
        raise Bad(f"{show(value)} has .. in it; {allowed} without it")
    return text


PATH = Kind("path", _path)

KEY_TYPES = "ssh-[a-z0-9-]+|ecdsa-sha2-[a-z0-9-]+|sk-[a-z0-9@.-]+"


def _ssh_key(value: Any, path: str, notes: Notes) -> str:
    allowed = "a public SSH key on one line, as in a .pub file"
    text = _text(value, allowed).strip()
    if not re.fullmatch(rf"({KEY_TYPES}) [A-Za-z0-9+/]+=*( [^{UNWRITTEN}]*)?", text):
        raise Bad(f"{show(value)} is not {allowed}")
    return text


SSH_KEY = Kind("public SSH key", _ssh_key)
