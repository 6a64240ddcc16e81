"""
Any text in any field of a pillar: refused with the field's path, or one value in its place.

Held against it is everything that a lab is started with: the command lines of QEMU and the hub,
dnsmasq's files, the units of systemd and the sections of supervisord.
"""

from __future__ import annotations

import configparser
import dataclasses
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import _qemulab_lan_by_hub as hub
import _qemulab_lan_dnsmasq_files as dnsmasq
import _qemulab_lan_hosts as lan_hosts
import _qemulab_lan_link as link
import _qemulab_lan_network as networks
import _qemulab_pillar_spec as spec
import _qemulab_run_by_supervisord_programs as programs
import _qemulab_run_by_systemd_units as systemd_units
import _qemulab_vm_command as command
import _qemulab_vm_launch as launch
import _qemulab_vm_media as vm_media
import pytest
from _qemulab_host_paths import Layout
from _qemulab_lan_dnsmasq_files import Files
from _qemulab_pillar_keys import Dhcp
from _qemulab_pillar_keys import Disk
from _qemulab_pillar_keys import Dns
from _qemulab_pillar_keys import Forward
from _qemulab_pillar_keys import Lab
from _qemulab_pillar_keys import Network
from _qemulab_pillar_keys import Nic
from _qemulab_pillar_keys import Reservation
from _qemulab_pillar_keys import Vm
from _qemulab_pillar_kinds import SpecError
from _qemulab_run_site import Site
from _qemulab_vm_command import Surroundings
from figures import Figures
from hypothesis import assume
from hypothesis import given
from hypothesis import strategies as st

MAC = "52:54:00:00:00:01"
FIGURE = "fuzzed pillars accepted that changed a command line"
NASTY = (
    *(",", '"', "'", "\n", "{", "}", "\\", "%n", "$HOME", "`id`", ";", "#", "[x]", "=", ":", " "),
    *(",file=/etc/shadow", "max,+x", '/a"},"x":"', "user,x", "\ndhcp-script=/tmp/x", "x\ny=z"),
    *("/a,b.iso", "/a b.iso", '/a"b', "/%n", "/a;b", "/a\\", "ssh-ed25519 AAAA me,x y"),
)
TEXT = (
    st.sampled_from(NASTY)
    | st.text(max_size=20)
    | st.text(st.sampled_from("abc019.:/-,\"'\n{}=%$;# \\"), max_size=24)
    | st.builds("{}{}{}".format, st.sampled_from(["/", "a", "10.0.3.5", MAC]), *[st.text()] * 2)
)


Place = tuple[str | int, ...]
NESTED = ("dhcp", "dns", "reservations", "disks", "nics", "forwards", "networks", "vms")
PLACES: dict[type[Any], Place] = {
    Lab: (),
    Vm: ("vms", "a"),
    Disk: ("vms", "a", "disks", 0),
    Nic: ("vms", "a", "nics", 1),
    Forward: ("vms", "a", "nics", 1, "forwards", 0),
    Network: ("networks", "vmlan"),
    Dhcp: ("networks", "vmlan", "dhcp"),
    Dns: ("networks", "vmlan", "dns"),
    Reservation: ("networks", "vmlan", "reservations", "a"),
}
KEY = "KEY"
"""Stands in a place for the name that a user gives to what is there."""


def fields_by_kind() -> dict[str, list[Place]]:
    """Return where in a pillar a user could write text, by the kind of value that belongs there."""
    found: dict[str, list[Place]] = defaultdict(list)
    for cls, place in PLACES.items():
        for item in dataclasses.fields(cls):
            if item.name not in NESTED:
                found[item.metadata["kind"].name].append((*place, item.name))
    found["name"] += [("vms", KEY), ("networks", KEY)]
    found["name"].append(("networks", "vmlan", "reservations", KEY))
    found["host name"].append(("networks", "vmlan", "dns", "names", KEY))
    found["IPv4 address"].append(("networks", "vmlan", "dns", "names", "mirror"))
    found["IPv4 address"].append(("networks", "vmlan", "dns", "upstream", 0))
    found["public SSH key"].append(("authorized_keys", 0))
    return found


FIELDS = fields_by_kind()


def standard() -> dict[str, Any]:
    """Return a pillar that has a value in every place that is fuzzed."""
    return {
        "authorized_keys": ["ssh-ed25519 AAAA me"],
        "networks": {
            "vmlan": {
                "dns": {"names": {"mirror": "10.0.3.9"}, "upstream": ["192.0.2.53"]},
                "reservations": {"a": {"mac": MAC, "address": "10.0.3.11"}},
                "dhcp": {},
            }
        },
        "vms": {
            "a": {
                "cpu": "max",
                "cdrom": "/a.iso",
                "display": "vnc",
                "disks": [{"backing": "/b.qcow2"}],
                "nics": [
                    {"mac": MAC},
                    {"network": "user", "forwards": [{"host_port": 10022}]},
                ],
            }
        },
    }


def with_text(place: Place, text: str) -> dict[str, Any]:
    """Return the standard pillar with a text in one place; for KEY, as a name."""
    pillar = standard()
    inside: Any = pillar
    for step in place[:-1]:
        inside = inside[step]
    if place[-1] == KEY:
        ((_, value),) = inside.items()
        inside.clear()
        inside[text] = value
    else:
        inside[place[-1]] = text
    return pillar


def outline(lab: Any) -> dict[str, Any]:
    """Return of all that a lab is started with only what no text of a pillar may change."""
    found: dict[str, Any] = {}
    for name, each in lab.networks.items():
        device = "/dev/net/tun"
        known = lan_hosts.known(name, each, lab.vms)
        argv = hub.hub_argv(each, device)
        files = Files(Path("/n"))
        text = dnsmasq.configuration(each, files, "02:00:00:00:00:01", known)
        keys = [line.partition("=")[0] for line in text.splitlines()]
        upstream = [line.partition("=")[0] for line in dnsmasq.upstream(each)]
        assert set(upstream) <= {"server", "no-resolv", "resolv-file"}
        text = link.link_script(each, "02:00:00:00:00:01", "qemulab", device)
        found["hub"] = (len(argv), [len(word.split(",")) for word in argv], len(text.splitlines()))
        # A range has two parts where the router's address is in it.
        found["dnsmasq"] = [key for key in dict.fromkeys(keys) if key not in upstream]
        reserved = dnsmasq.reservations_text(known).splitlines()
        fields = [1 + bool(item.address) + bool(item.name) for item in known]
        assert [len(line.split(",")) for line in reserved] == [n for n in fields if n > 1]
        names = lan_hosts.names(name, each, lab.vms)
        hosts = dnsmasq.hosts_text(names).splitlines()
        assert all(len(line.split()) == 2 and "#" not in line for line in hosts)
        assert len(hosts) == len(names)
        found["names"] = len(reserved)
    for name, each in lab.vms.items():
        around = surroundings(lab, name, each)
        argv = command.argv(name, each, around)
        found["qemu"] = (len(argv), sorted(options(argv)))
        found["units"] = unit_keys(lab, name, each)
    return found


def options(argv: list[str]) -> list[str]:
    """Return the options of a command line with how many settings each has, JSON left out."""
    pairs = zip(argv, argv[1:], strict=False)
    found = []
    for option, value in pairs:
        if option.startswith("-") and not value.startswith("{"):
            settings_of = value.replace(",,", "").count(",")
            found.append(f"{option} {settings_of}")
    return found


def surroundings(lab: Any, name: str, each: Vm) -> Surroundings:
    """Return what a host contributes to a command line."""
    layout = Layout(lab.name)
    return Surroundings(
        qemu="/usr/bin/qemu-system-x86_64",
        accel="tcg",
        uuid=spec.vm_uuid(lab.name, name),
        hardware=1,
        qmp=layout.qmp(name),
        watch=layout.watch(name),
        serial=layout.serial(name),
        console_log=layout.console(name),
        vnc=layout.vnc(name),
        disks={disk.name: layout.disk(name, disk.name) for disk in each.disks},
        media={item: layout.media(name) / item for item in vm_media.media(each)},
        networks=lab.networks,
        firmware_code="/f",
        firmware_code_format="raw",
        uefi_variables=layout.uefi_variables(name),
    )


def unit_keys(lab: Any, name: str, each: Vm) -> list[str]:
    """Return the settings that the supervisors' files have, without their values."""
    site = Site(lab.name)
    found = []
    for unit in (launch.unit(site, name, each), *networks.units(site, *network_of(lab))):
        # A forward to an address of the host's makes a machine patient, with settings of its own.
        drop_in = systemd_units.systemd_drop_in(unit._replace(patient=False))
        lines = [line for line in drop_in.split("\n") if not line.startswith("BindReadOnlyPaths")]
        found += [line.partition("=")[0] for line in lines]
        parsed = configparser.RawConfigParser(inline_comment_prefixes=(";", "#"))
        parsed.read_string(programs.supervisord_program(unit, Path("/w"), Path("/l")))
        found += [len(parsed.sections()), *(key for key in parsed[parsed.sections()[0]])]
        found.append(len(re.findall("^BindReadOnlyPaths=", drop_in, re.M)) == len(unit.binds))
        wrapper = programs.supervisord_wrapper(unit, Path("/w"))
        found.append(len(wrapper.split("\n")) - len(unit.binds))
    return [str(each) for each in found]


def network_of(lab: Any) -> tuple[str, Network]:
    """Return a lab's only network."""
    ((name, each),) = lab.networks.items()
    return name, each


OUTLINE = outline(spec.from_pillar(standard()).lab)


@pytest.mark.parametrize("kind", [pytest.param(kind, id=f"B2-{kind}") for kind in FIELDS])
def test_no_text_changes_more_than_its_own_value(kind: str, figures: Figures) -> None:
    """It is refused by the path of its field, or is one value in its place."""
    words = re.findall("`([^`]+)`", kind)

    @given(st.sampled_from(FIELDS[kind]), TEXT)
    def holds(place: Place, text: str) -> None:
        assume(text not in words)  # hypothesis finds them in the code; they mean what they say
        field = ":".join(["lab", *(str(step) for step in place if step != KEY)])
        try:
            lab = spec.from_pillar(with_text(place, text)).lab
        except SpecError as err:
            assert any(fault.path.startswith(field) for fault in err.faults), err
            figures.count(FIGURE, 0, 1)
            return
        found = outline(lab)
        figures.count(FIGURE, int(found != OUTLINE), 1)
        assert found == OUTLINE

    holds()
