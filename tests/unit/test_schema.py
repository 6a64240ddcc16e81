"""What each kind takes, what it says of what it refuses, and how a mapping is read."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import _qemulab_pillar_kinds as kinds
import _qemulab_pillar_schema as schema
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

NAME = "a name has 1 to 32 letters a-z, digits and inner hyphens"
INTERFACE = (
    "an interface name has 1 to 15 characters a-z, 0-9, _, -, begins with a letter and is none of "
    "lo, all, default, bonding_masters"
)
HOSTNAME = "a host name has labels of a-z, digits and inner hyphens, with dots between them"
SIZE = "a size has a whole number and a unit, such as 512M, 50G or 1T"
MAC = "a MAC address has six octets in hexadecimal, such as 52:54:00:12:34:56"
PREFIX = "the host's address on the network with its prefix length, such as 10.0.3.1/24"
PRIVATE = "is not in a private network (10/8, 172.16/12 or 192.168/16)"
GROUP = "a multicast group and a port such as 230.0.0.1:1234 (port 1024 to 65535)"
MULTICAST = "is not a multicast group from 224.0.1.0 to 239.255.255.255"
LEASES = "dnsmasq leases for"
LEASE = "a lease time is like 2m, 30m, 12h, 7d or infinite"
RANGE = "a range of two addresses such as 10.0.3.100-10.0.3.200"
HUGE = int("f" * 5000, 16)
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDoa"


def parse(kind: kinds.Kind, value: Any) -> tuple[Any, kinds.Notes]:
    """Return what a kind makes of a value, with what it notes."""
    notes = kinds.Notes()
    return kind.parse(value, "lab:here", notes), notes


@dataclass(frozen=True)
class Inner:
    """A mapping inside another."""

    size: str = schema.key(kinds.SIZE, "1G")
    port: int = schema.key(kinds.PORT, 22)


@dataclass(frozen=True)
class Outer:
    """A mapping with a required key, a list, a mapping of names and one inside."""

    mac: str = schema.key(kinds.MAC)
    inner: Inner = schema.key(schema.nested(Inner), Inner())
    items: tuple[Inner, ...] = schema.key(schema.list_of(schema.nested(Inner)), ())
    names: dict[str, str] = schema.key(schema.mapping_of(kinds.NAME, kinds.IPV4), {})


# Kinds


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        (kinds.NAME, "a", "a"),
        (kinds.NAME, "a-1" + "b" * 29, "a-1" + "b" * 29),
        (kinds.INTERFACE, "vmlan", "vmlan"),
        (kinds.INTERFACE, "a_b-c" + "0" * 10, "a_b-c" + "0" * 10),
        (kinds.HOSTNAME, "master.lab.example", "master.lab.example"),
        (kinds.LEASE_TIME, "infinite", "infinite"),
        (kinds.LEASE_TIME, "120", "120"),
        (kinds.LEASE_TIME, "3550w", "3550w"),
        (kinds.LEASE_TIME, "2147483647s", "2147483647s"),
        (kinds.CPU_MODEL, "Skylake-Client-v3", "Skylake-Client-v3"),
        (kinds.PORT, 1, 1),
        (kinds.PORT, 65535, 65535),
        (kinds.BOOLEAN, False, False),
        (kinds.SIZE, "50G", "50G"),
        (kinds.SIZE, "1024M", "1G"),
        (kinds.SIZE, "1536MiB", "1536M"),
        (kinds.SIZE, "1TB", "1T"),
        (kinds.MAC, "52:54:00:AB:cd:EF", "52:54:00:ab:cd:ef"),
        (kinds.IPV4, "10.0.3.101", "10.0.3.101"),
        (kinds.ADDRESS_WITH_PREFIX, "10.0.3.1/24", "10.0.3.1/24"),
        (kinds.ADDRESS_WITH_PREFIX, "192.168.7.1/255.255.255.0", "192.168.7.1/24"),
        (kinds.RANGE, "10.0.3.100 - 10.0.3.200", "10.0.3.100-10.0.3.200"),
        (kinds.RANGE, "10.0.3.100-10.0.3.100", "10.0.3.100-10.0.3.100"),
        (kinds.GROUP, "230.0.0.1:1234", "230.0.0.1:1234"),
        (kinds.GROUP, "239.255.255.255:65535", "239.255.255.255:65535"),
        (kinds.PATH, '/srv/iso/a, b\'s "c" %n $HOME.iso', '/srv/iso/a, b\'s "c" %n $HOME.iso'),
        (kinds.PATH, "/srv/..a/b..", "/srv/..a/b.."),
        (kinds.SSH_KEY, f" {KEY} me@laptop, at home\n", f"{KEY} me@laptop, at home"),
        (schema.words_or(kinds.IPV4, "none"), "none", "none"),
        (schema.words_or(kinds.IPV4, "none"), "10.0.3.1", "10.0.3.1"),
        (kinds.choice("tcp", "udp"), "udp", "udp"),
        (schema.list_of(kinds.PORT), [1, 2], (1, 2)),
        (schema.mapping_of(kinds.NAME, kinds.PORT), {"a": 1}, {"a": 1}),
        (schema.nested(Inner), None, Inner()),
    ],
)
def test_a_kind_takes_a_value_in_its_canonical_form(
    kind: kinds.Kind, value: Any, expected: Any
) -> None:
    """What two users write differently and mean alike reads alike."""
    found, notes = parse(kind, value)
    assert (found, type(found), notes.faults) == (expected, type(expected), [])


@pytest.mark.parametrize(
    ("kind", "value", "problem"),
    [
        (kinds.NAME, "../../etc/x", f"'../../etc/x' is not allowed; {NAME}"),
        (kinds.NAME, "a b", f"'a b' is not allowed; {NAME}"),
        (kinds.NAME, "a" * 33, f"'{'a' * 33}' is not allowed; {NAME}"),
        (kinds.NAME, "a" * 65, f"'{'a' * 56}... is not allowed; {NAME}"),
        (kinds.NAME, "-x", f"'-x' is not allowed; {NAME}"),
        (kinds.NAME, "x-", f"'x-' is not allowed; {NAME}"),
        (kinds.NAME, "", f"'' is not allowed; {NAME}"),
        (kinds.NAME, "mäster", f"'mäster' is not allowed; {NAME}"),
        (kinds.NAME, "%n", f"'%n' is not allowed; {NAME}"),
        (kinds.NAME, "$HOME", f"'$HOME' is not allowed; {NAME}"),
        (kinds.NAME, "a\n", f"'a\\n' is not allowed; {NAME}"),
        (kinds.NAME, 10, f"10 is not text; put it in quotes; {NAME}"),
        (kinds.NAME, True, f"True is not text; put it in quotes; {NAME}"),
        (kinds.INTERFACE, "a" * 16, f"'{'a' * 16}' is not allowed; {INTERFACE}"),
        (kinds.INTERFACE, "a,b", f"'a,b' is not allowed; {INTERFACE}"),
        (kinds.INTERFACE, "lo", f"'lo' is not allowed; {INTERFACE}"),
        (kinds.INTERFACE, "0eth", f"'0eth' is not allowed; {INTERFACE}"),
        (
            kinds.HOSTNAME,
            "g1.lab,10.0.0.1\ndhcp-script=/tmp/x",
            f"'g1.lab,10.0.0.1\\ndhcp-script=/tmp/x' is not allowed; {HOSTNAME}",
        ),
        (kinds.HOSTNAME, "a..b", f"'a..b' is not allowed; {HOSTNAME}"),
        (kinds.HOSTNAME, "a" * 64, f"'{'a' * 56}... is not allowed; {HOSTNAME}"),
        *(
            (kinds.LEASE_TIME, text, f"{text} is not between 2m and 3550w, which is what {LEASES}")
            for text in ("90s", "119", "1m", "9999999w", "2147483648", "3551w", "596524h")
        ),
        (kinds.LEASE_TIME, "0h", f"'0h' is not allowed; {LEASE}"),
        (kinds.LEASE_TIME, 3600, f"3600 is not text; put it in quotes; {LEASE}"),
        (
            kinds.CPU_MODEL,
            "max,+x",
            "'max,+x' is not allowed; a CPU model as qemu-system-x86_64 -cpu help lists it",
        ),
        (kinds.PORT, 0, "0 is not a whole number from 1 to 65535"),
        (kinds.PORT, 65536, "65536 is not a whole number from 1 to 65535"),
        (kinds.PORT, "22", "'22' is not a whole number from 1 to 65535"),
        (kinds.PORT, True, "True is not a whole number from 1 to 65535"),
        (kinds.PORT, 22.0, "22.0 is not a whole number from 1 to 65535"),
        (kinds.PORT, HUGE, "this number is not a whole number from 1 to 65535"),
        (kinds.integer(16, 64, "MB"), -1, "-1 is not a whole number from 16 to 64 MB"),
        (kinds.BOOLEAN, "yes", "'yes' is not true or false"),
        (kinds.BOOLEAN, 1, "1 is not true or false"),
        (kinds.SIZE, "10", f"'10' is not allowed; {SIZE}"),
        (kinds.SIZE, 10, f"10 is not text; {SIZE}"),
        (kinds.SIZE, "1.5G", f"'1.5G' is not allowed; {SIZE}"),
        (kinds.SIZE, "-1G", f"'-1G' is not allowed; {SIZE}"),
        (kinds.SIZE, "512K", "512K is not between 1M and 64T"),
        (kinds.SIZE, "65T", "65T is not between 1M and 64T"),
        (kinds.MAC, "52:54:00:12:34", f"'52:54:00:12:34' is not allowed; {MAC}"),
        (kinds.MAC, "52-54-00-12-34-56", f"'52-54-00-12-34-56' is not allowed; {MAC}"),
        (
            kinds.MAC,
            "01:00:5e:00:00:01",
            "01:00:5e:00:00:01 is a multicast address; a NIC needs a unicast one (first octet "
            "even)",
        ),
        (kinds.MAC, "00:00:00:00:00:00", "a NIC cannot have the MAC address of six zeros"),
        (kinds.MAC, 22, f"22 is not allowed; {MAC}, in quotes"),
        (kinds.MAC, -5, f"-5 is not allowed; {MAC}, in quotes"),
        (kinds.MAC, HUGE, f"this number is not allowed; {MAC}, in quotes"),
        (kinds.MAC, True, f"True is not text; {MAC}"),
        (kinds.MAC, 1.5, f"1.5 is not text; {MAC}"),
        (kinds.IPV4, "fd00::1", "'fd00::1' is not an IPv4 address such as 10.0.3.101"),
        (kinds.IPV4, "10.0.3.256", "'10.0.3.256' is not an IPv4 address such as 10.0.3.101"),
        (kinds.IPV4, "10.0.3.01", "'10.0.3.01' is not an IPv4 address such as 10.0.3.101"),
        (kinds.ADDRESS_WITH_PREFIX, "10.0.3.1", f"'10.0.3.1' is not {PREFIX} (8 to 29)"),
        (kinds.ADDRESS_WITH_PREFIX, "10.0.3.1/30", f"'10.0.3.1/30' is not {PREFIX} (8 to 29)"),
        (kinds.ADDRESS_WITH_PREFIX, "10.0.3.1/33", f"'10.0.3.1/33' is not {PREFIX}"),
        (kinds.ADDRESS_WITH_PREFIX, "fd00::1/64", f"'fd00::1/64' is not {PREFIX}"),
        (kinds.ADDRESS_WITH_PREFIX, "8.8.8.8/24", f"8.8.8.8/24 {PRIVATE}"),
        (kinds.ADDRESS_WITH_PREFIX, "127.0.0.1/8", f"127.0.0.1/8 {PRIVATE}"),
        (kinds.ADDRESS_WITH_PREFIX, "169.254.1.1/16", f"169.254.1.1/16 {PRIVATE}"),
        (kinds.ADDRESS_WITH_PREFIX, "0.0.0.5/8", f"0.0.0.5/8 {PRIVATE}"),
        (kinds.ADDRESS_WITH_PREFIX, "240.0.0.1/24", f"240.0.0.1/24 {PRIVATE}"),
        (kinds.ADDRESS_WITH_PREFIX, "172.16.0.1/8", f"172.16.0.1/8 {PRIVATE}"),
        (
            kinds.ADDRESS_WITH_PREFIX,
            "10.0.3.0/24",
            "10.0.3.0 is not an address for a host in 10.0.3.0/24",
        ),
        (
            kinds.ADDRESS_WITH_PREFIX,
            "10.0.3.255/24",
            "10.0.3.255 is not an address for a host in 10.0.3.0/24",
        ),
        (kinds.RANGE, "10.0.3.100", f"'10.0.3.100' is not {RANGE}"),
        (kinds.RANGE, "10.0.3.9-x", "'x' is not an IPv4 address such as 10.0.3.101"),
        (kinds.RANGE, "10.0.3.9-10.0.3.8", f"'10.0.3.9-10.0.3.8' runs backwards; {RANGE}"),
        (kinds.GROUP, "224.0.0.1:1234", f"224.0.0.1 {MULTICAST}"),
        (kinds.GROUP, "10.0.0.1:1234", f"10.0.0.1 {MULTICAST}"),
        (kinds.GROUP, "230.0.0.1", f"'230.0.0.1' is not {GROUP}"),
        (kinds.GROUP, "230.0.0.1:80", f"'230.0.0.1:80' is not {GROUP}"),
        (kinds.GROUP, "230.0.0.1:65536", f"'230.0.0.1:65536' is not {GROUP}"),
        (kinds.PATH, "a.iso", "'a.iso' is not an absolute path of a file"),
        (kinds.PATH, "/a\nb", "'/a\\nb' is not an absolute path of a file"),
        (kinds.PATH, "/a\x00", "'/a\\x00' is not an absolute path of a file"),
        (kinds.PATH, "/a\ud800", "'/a\\ud800' is not an absolute path of a file"),
        (
            kinds.PATH,
            "/srv/../etc/shadow",
            "'/srv/../etc/shadow' has .. in it; an absolute path of a file without it",
        ),
        (
            kinds.SSH_KEY,
            f"{KEY} a\nssh-rsa AAAA",
            f"'{KEY} a\\nssh-rsa AAAA' is not a public SSH key on one line, as in a .pub file",
        ),
        (
            kinds.SSH_KEY,
            'command="x" ssh-rsa AAAA',
            "'command=\"x\" ssh-rsa AAAA' is not a public SSH key on one line, as in a .pub file",
        ),
        (
            schema.words_or(kinds.IPV4, "none"),
            "all",
            "'all' is not an IPv4 address such as 10.0.3.101; or one of none",
        ),
        (kinds.choice("tcp", "udp"), "sctp", "'sctp' is not one of tcp, udp"),
        (kinds.choice("tcp", "udp"), ["tcp"], "['tcp'] is not one of tcp, udp"),
        (schema.list_of(kinds.PORT), "12", "'12' is not a list"),
        (schema.mapping_of(kinds.NAME, kinds.PORT), ["a"], "['a'] is not a mapping of names"),
    ],
    ids=lambda value: value.name if isinstance(value, kinds.Kind) else kinds.show(value),
)
def test_a_kind_says_what_is_allowed(kind: kinds.Kind, value: Any, problem: str) -> None:
    """A refusal shows the value and names what would have been taken."""
    with pytest.raises(kinds.Bad) as caught:
        parse(kind, value)
    assert str(caught.value) == problem


@pytest.mark.parametrize("mac", ["10:00:00:11:11:11", "52:54:00:11:11:11", "10:0:0:1:2:3"])
def test_a_mac_that_yaml_read_as_a_number_is_decoded_with_a_warning(mac: str) -> None:
    """YAML 1.1 counts in base 60 where every group is below 60 and the first is not 0."""
    number = yaml.safe_load(mac)
    assert isinstance(number, int)
    found, notes = parse(kinds.MAC, number)
    assert found == ":".join(f"{int(group):02d}" for group in mac.split(":"))
    assert [str(warning) for warning in notes.warnings] == [
        f"lab:here: YAML read this MAC address as the number {number}: quote it, '{found}'"
    ]


@given(st.integers(1, 99), st.lists(st.integers(0, 59), min_size=5, max_size=5))
def test_every_mac_in_base_60_is_decoded(first: int, others: list[int]) -> None:
    """The number has all that was written."""
    number = first
    for group in others:
        number = number * 60 + group
    assert kinds.mac_of_number(number) == ":".join(f"{group:02d}" for group in [first, *others])


@given(st.integers(2**20, 64 * 2**40))
def test_a_size_never_shrinks_when_written_as_text(count: int) -> None:
    """What needs rounding is rounded up, to less than one more unit of the smallest."""
    assert 0 <= kinds.size_bytes(kinds.size_text(count)) - count < 1024


def test_a_shown_value_is_short_and_on_one_line() -> None:
    """Whatever it is."""
    assert kinds.show("a\nb") == "'a\\nb'"
    assert kinds.show("x" * 100) == "'" + "x" * 56 + "..."
    assert kinds.show([HUGE]) == "this number"


# Mappings


def test_all_faults_of_a_mapping_are_noted_with_their_paths() -> None:
    """A bad value does not hide the next one, nor an unknown or a missing key."""
    value = {
        "innre": 1,
        "zzz": 2,
        5: 3,
        "a\nb": 4,
        "inner": {"size": "1", "port": 0, "prot": 1},
        "items": [{}, None, 7, {"port": "x"}],
        "names": {"ok": "10.0.0.1", "b d": "10.0.0.2", "c": "x"},
    }
    notes = kinds.Notes()
    assert schema.read(Outer, value, "lab", notes) is None
    known = "inner, items, mac, names"
    assert [str(fault) for fault in notes.faults] == [
        "lab:innre: unknown key; did you mean inner?",
        f"lab:zzz: unknown key; known are {known}",
        f"lab:5: unknown key; known are {known}",
        f"lab:'a\\nb': unknown key; known are {known}",
        f"lab:inner:size: '1' is not allowed; {SIZE}",
        "lab:inner:port: 0 is not a whole number from 1 to 65535",
        "lab:inner:prot: unknown key; did you mean port?",
        "lab:items:2: 7 is not a mapping of keys",
        "lab:items:3:port: 'x' is not a whole number from 1 to 65535",
        f"lab:names:b d: 'b d' is not allowed; {NAME}",
        "lab:names:c: 'x' is not an IPv4 address such as 10.0.3.101",
        "lab:mac: is missing",
    ]


def test_a_refused_required_key_is_not_called_missing_as_well() -> None:
    """One fault for one mistake."""
    notes = kinds.Notes()
    assert schema.read(Outer, {"mac": "x"}, "lab", notes) is None
    assert [str(fault) for fault in notes.faults] == [f"lab:mac: 'x' is not allowed; {MAC}"]


def test_a_key_with_nothing_behind_it_keeps_its_default() -> None:
    """``inner:`` and a line end is how YAML writes null."""
    notes = kinds.Notes()
    value = {"mac": "52:54:00:00:00:01", "inner": None, "items": None, "names": None}
    assert schema.read(Outer, value, "lab", notes) == Outer("52:54:00:00:00:01")
    assert not notes.faults


def test_what_was_stored_by_another_version_is_read_leniently() -> None:
    """Keys that this one does not know, and defaults that it would not take, are passed over."""
    notes = kinds.Notes()
    value = {**schema.plain(Outer("52:54:00:00:00:01")), "colour": "red"}
    found = schema.read(Outer, value, "stored", notes, lenient=True)
    assert (found, notes.faults) == (Outer("52:54:00:00:00:01"), [])


OUTER = Outer(
    "52:54:00:00:00:01",
    inner=Inner(port=23),
    items=(Inner(), Inner(size="2G")),
    names={"a": "10.0.0.1"},
)


def test_compact_leaves_out_what_has_its_default() -> None:
    """And reads back as what it was."""
    assert schema.compact(OUTER) == {
        "mac": "52:54:00:00:00:01",
        "inner": {"port": 23},
        "items": [{}, {"size": "2G"}],
        "names": {"a": "10.0.0.1"},
    }
    assert schema.read(Outer, schema.compact(OUTER), "lab", kinds.Notes()) == OUTER


def test_plain_keeps_every_key_as_plain_data() -> None:
    """As JSON and msgpack take it."""
    assert schema.plain(OUTER) == {
        "mac": "52:54:00:00:00:01",
        "inner": {"size": "1G", "port": 23},
        "items": [{"size": "1G", "port": 22}, {"size": "2G", "port": 22}],
        "names": {"a": "10.0.0.1"},
    }
    assert schema.plain(OUTER).keys() == {item.name for item in dataclasses.fields(Outer)}


def test_all_faults_are_in_the_error_one_a_line() -> None:
    """As a user reads them."""
    error = kinds.SpecError([kinds.Fault("lab:a", "is missing"), kinds.Fault("lab:b", "is bad")])
    assert str(error) == "lab:a: is missing\nlab:b: is bad"
