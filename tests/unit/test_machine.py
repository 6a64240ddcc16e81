"""QEMU's command line to the letter, and that no text in it can be more than a value."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import _qemulab_pillar_keys as keys
import _qemulab_pillar_spec as spec
import _qemulab_vm_command as command
import pytest
from _qemulab_pillar_kinds import SpecError
from _qemulab_vm_command import Surroundings
from hypothesis import given
from hypothesis import strategies as st

RUN = Path("/run/qemulab/lab/vms/master")
DISKS = Path("/var/lib/qemulab/lab/vms/master/disks")
MACS = ("00:00:00:11:11:11", "10:00:00:11:11:11")
NICS = [{"network": "vmlan", "mac": MACS[0]}, {"network": "user", "mac": MACS[1]}]


def declared(**keys: Any) -> keys.Vm:
    """Return the recipe's master with some keys declared otherwise."""
    pillar = {"networks": {"vmlan": {}}, "vms": {"master": {"nics": NICS, **keys}}}
    return spec.from_pillar(pillar).lab.vms["master"]


AROUND = Surroundings(
    qemu="/usr/bin/qemu-system-x86_64",
    accel="kvm",
    uuid="d72c0654-e722-56ac-abcc-d7543fc72899",
    hardware=1,
    qmp=RUN / "qmp.sock",
    watch=RUN / "watch.sock",
    serial=RUN / "serial.sock",
    console_log=Path("/var/log/qemulab/lab/consoles/master.log"),
    vnc=RUN / "vnc.sock",
    disks={name: DISKS / f"{name}.qcow2" for name in ("hda", "hdb", "hdc", "hdd")},
    media={name: RUN / "media" / name for name in ("cdrom", "hda", "hdb")},
    networks={"vmlan": spec.network_from("vmlan", {}, "lab")},
    firmware_code="/usr/share/OVMF/OVMF_CODE_4M.fd",
    uefi_variables=DISKS / "uefi-variables.qcow2",
)


def argv(around: Surroundings = AROUND, **keys: Any) -> list[str]:
    """Return the command line of the recipe's master with some keys declared otherwise."""
    return command.argv("master", declared(**keys), around)


def values(command: list[str], option: str) -> list[str]:
    """Return what follows an option, each time that it stands there."""
    return [command[i + 1] for i, word in enumerate(command) if word == option]


def objects(command: list[str], option: str) -> list[dict[str, Any]]:
    """Return the JSON that follows an option, each time that it stands there."""
    return [json.loads(value) for value in values(command, option)]


def device(command: list[str], name: str) -> dict[str, Any]:
    """Return the device that has an id."""
    (found,) = [item for item in objects(command, "-device") if item.get("id") == name]
    return found


def node(command: list[str], name: str) -> dict[str, Any]:
    """Return the block node that has a name."""
    (found,) = [item for item in objects(command, "-blockdev") if item["node-name"] == name]
    return found


def test_the_recipes_machine_is_one_command_line() -> None:
    """With its installer in the drive, under KVM."""
    # fmt: off
    assert argv(cdrom="/srv/installer.iso") == [
        "/usr/bin/qemu-system-x86_64",
        "-name", "guest=master",
        "-uuid", "d72c0654-e722-56ac-abcc-d7543fc72899",
        "-nodefaults",
        "-no-user-config",
        "-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
        "-chardev", "socket,id=qmp,path=/run/qemulab/lab/vms/master/qmp.sock,server=on,wait=off",
        "-mon", "chardev=qmp,mode=control",
        "-chardev", "socket,id=watch,path=/run/qemulab/lab/vms/master/watch.sock,server=on,"
        "wait=off",
        "-mon", "chardev=watch,mode=control",
        "-chardev", "socket,id=serial0,path=/run/qemulab/lab/vms/master/serial.sock,server=on,"
        "wait=off,logfile=/var/log/qemulab/lab/consoles/master.log,logappend=on",
        "-serial", "chardev:serial0",
        "-fw_cfg", "name=opt/qemulab/hostname,string=master",
        "-machine", "pc",
        "-accel", "kvm",
        "-cpu", "host",
        "-smp", "2",
        "-m", "2048M",
        "-object", '{"qom-type":"rng-random","id":"rng0","filename":"/dev/urandom"}',
        "-device", '{"driver":"virtio-rng-pci","rng":"rng0"}',
        "-blockdev", '{"driver":"raw","node-name":"uefi-code","read-only":true,'
        '"file":{"driver":"file","filename":"/usr/share/OVMF/OVMF_CODE_4M.fd"}}',
        "-blockdev", '{"driver":"qcow2","node-name":"uefi-variables","file":{"driver":"file",'
        '"filename":"/var/lib/qemulab/lab/vms/master/disks/uefi-variables.qcow2"}}',
        "-machine", "pflash0=uefi-code,pflash1=uefi-variables",
        "-blockdev", '{"driver":"qcow2","node-name":"node-disk-hda","discard":"unmap",'
        '"file":{"driver":"file",'
        '"filename":"/var/lib/qemulab/lab/vms/master/disks/hda.qcow2"}}',
        "-device", '{"id":"disk-hda","bootindex":2,"driver":"ide-hd","bus":"ide.0","unit":0,'
        '"drive":"node-disk-hda"}',
        "-blockdev", '{"driver":"raw","node-name":"node-cdrom","read-only":true,'
        '"file":{"driver":"file","filename":"/run/qemulab/lab/vms/master/media/cdrom"}}',
        "-device", '{"driver":"ide-cd","id":"cdrom","bus":"ide.1","unit":0,"bootindex":1,'
        '"drive":"node-cdrom"}',
        "-netdev", '{"type":"socket","id":"net0","mcast":"230.0.0.1:1234",'
        '"localaddr":"127.0.0.1"}',
        "-device", '{"driver":"virtio-net-pci","id":"nic0","netdev":"net0",'
        '"mac":"00:00:00:11:11:11","bootindex":3}',
        "-netdev", '{"type":"user","id":"net1","hostfwd":[{"str":"tcp:127.0.0.1:10022-:22"}]}',
        "-device", '{"driver":"virtio-net-pci","id":"nic1","netdev":"net1",'
        '"mac":"10:00:00:11:11:11","bootindex":4}',
        "-display", "none",
        "-vga", "none",
    ]
    # fmt: on


# Processor and firmware


@pytest.mark.parametrize(
    ("accel", "cpu", "expected"),
    [("kvm", {}, ["host"]), ("tcg", {}, []), ("tcg", {"cpu": "max"}, ["max"])],
)
def test_the_processor_follows_the_accelerator(accel: str, cpu: Any, expected: list[str]) -> None:
    """``host`` needs KVM; QEMU's own default serves TCG, as in the recipe."""
    command = argv(AROUND._replace(accel=accel), **cpu)
    assert values(command, "-accel") == [accel]
    assert values(command, "-cpu") == expected


def test_a_machine_with_bios_has_no_flash_chips() -> None:
    """QEMU brings its own firmware."""
    command = argv(firmware="bios", disks=[])
    assert not values(command, "-blockdev")
    assert values(command, "-machine") == ["pc"]


def test_the_firmwares_own_format_is_honoured() -> None:
    """Some distributions have it as qcow2."""
    command = argv(AROUND._replace(firmware_code_format="qcow2"))
    assert node(command, "uefi-code")["driver"] == "qcow2"


def test_the_built_in_guest_is_booted_from_its_kernel() -> None:
    """With its image, its arguments and the files that it reads from the firmware's."""
    around = AROUND._replace(
        kernel=Path("/guest/vmlinuz"),
        initrd=Path("/guest/initrd"),
        kernel_arguments="console=ttyS0 quiet",
        firmware_files={"authorized_keys": Path("/a,b/keys"), "a": Path("/a")},
    )
    command = argv(around)
    assert values(command, "-kernel") == ["/guest/vmlinuz"]
    assert values(command, "-initrd") == ["/guest/initrd"]
    assert values(command, "-append") == ["console=ttyS0 quiet"]
    assert values(command, "-fw_cfg") == [
        "name=opt/qemulab/hostname,string=master",
        "name=opt/qemulab/a,file=/a",
        "name=opt/qemulab/authorized_keys,file=/a,,b/keys",
    ]


# Disks


def test_disks_fill_the_ide_slots_that_the_cd_drive_leaves() -> None:
    """The fourth is on a SCSI controller of its own."""
    command = argv(disks=[{}, {}, {}, {}])
    slots = [
        (device(command, f"disk-hd{letter}")["bus"], device(command, f"disk-hd{letter}")["unit"])
        for letter in "abc"
    ]
    assert slots == [("ide.0", 0), ("ide.0", 1), ("ide.1", 1)]
    assert device(command, "disk-hdd") == {
        "id": "disk-hdd",
        "bootindex": 4,
        "driver": "scsi-hd",
        "bus": "scsi.0",
        "scsi-id": 3,
        "drive": "node-disk-hdd",
    }
    assert device(command, "scsi") == {"driver": "virtio-scsi-pci", "id": "scsi"}
    assert device(command, "cdrom")["unit"] == 0


def test_a_virtio_disk_needs_no_controller() -> None:
    """It is a device of the PCI bus."""
    command = argv(disks=[{"bus": "virtio"}])
    assert device(command, "disk-hda") == {
        "id": "disk-hda",
        "bootindex": 1,
        "driver": "virtio-blk-pci",
        "drive": "node-disk-hda",
    }
    assert not [item for item in objects(command, "-device") if item.get("id") == "scsi"]


def test_a_backing_image_is_read_only_and_its_format_given() -> None:
    """As the machine's own mount namespace shows it."""
    command = argv(disks=[{}, {"backing": "/srv/base.qcow2"}])
    assert "backing" not in node(command, "node-disk-hda")
    assert node(command, "node-disk-hdb")["backing"] == {
        "driver": "qcow2",
        "read-only": True,
        "file": {"driver": "file", "filename": str(RUN / "media/hdb")},
    }


@pytest.mark.parametrize("machine_type", ["pc", "q35"])
def test_the_cd_drive_is_there_without_a_disc(machine_type: str) -> None:
    """So that one can be put in while the machine runs."""
    drive = device(argv(machine=machine_type), "cdrom")
    assert "drive" not in drive
    assert (drive["bus"], drive.get("unit")) == ("ide.1", 0 if machine_type == "pc" else None)


@pytest.mark.parametrize(
    ("keys", "order"),
    [
        ({}, ["disk-hda", "cdrom", "nic0", "nic1"]),
        ({"cdrom": "/a.iso"}, ["cdrom", "disk-hda", "nic0", "nic1"]),
        (
            {"cdrom": "/a.iso", "boot": "disk", "disks": [{}, {}]},
            ["disk-hda", "disk-hdb", "cdrom", "nic0", "nic1"],
        ),
        ({"disks": []}, ["cdrom", "nic0", "nic1"]),
    ],
)
def test_everything_that_boots_has_a_place_in_the_order(keys: Any, order: list[str]) -> None:
    """From 1 on, each a place of its own."""
    found = [item for item in objects(argv(**keys), "-device") if "bootindex" in item]
    assert [item["id"] for item in sorted(found, key=lambda item: item["bootindex"])] == order
    places = {item["bootindex"] for item in found}
    assert places == set(range(1, len(order) + 1))


# Network and screen


def test_the_user_network_forwards_and_restricts_as_declared() -> None:
    """A forward has protocol and both ends."""
    forwards = [
        {"host_port": 5353, "guest_port": 53, "protocol": "udp"},
        {"host_port": 80, "guest_port": 8080, "host_address": "0.0.0.0"},
    ]
    command = argv(nics=[{"network": "user", "restrict": True, "forwards": forwards}])
    assert objects(command, "-netdev") == [
        {
            "type": "user",
            "id": "net0",
            "restrict": True,
            "hostfwd": [{"str": "udp:127.0.0.1:5353-:53"}, {"str": "tcp:0.0.0.0:80-:8080"}],
        }
    ]


def test_a_network_card_is_the_model_that_was_declared() -> None:
    """With its own group behind it."""
    command = argv(nics=[{"network": "vmlan", "model": "e1000"}])
    assert device(command, "nic0")["driver"] == "e1000"
    assert objects(command, "-netdev")[0]["mcast"] == "230.0.0.1:1234"


@pytest.mark.parametrize(
    ("keys", "vnc"),
    [
        ({"display": "vnc"}, "unix:/run/qemulab/lab/vms/master/vnc.sock"),
        ({"display": "vnc", "vnc_port": 5900}, "127.0.0.1:0"),
        ({"display": "vnc", "vnc_port": 5917}, "127.0.0.1:17"),
    ],
)
def test_a_screen_is_never_off_the_host(keys: Any, vnc: str) -> None:
    """A socket, or a port of the loopback; with keyboard and tablet."""
    command = argv(**keys)
    assert values(command, "-vnc") == [vnc]
    assert values(command, "-vga") == ["std"]
    drivers = [item["driver"] for item in objects(command, "-device")]
    assert drivers[-3:] == ["qemu-xhci", "usb-kbd", "usb-tablet"]
    assert not values(command, "-display")


# Text that could be taken for more

ANY = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), max_size=30)
TEXT = st.sampled_from([",", '"', "'", "\\", "{", "}", "\n", ",file=/etc/shadow", "%s"]) | ANY
PATHS = st.tuples(TEXT, TEXT).map(lambda parts: Path("/a" + parts[0] + "/b" + parts[1]))
OF_TEXT = ("-fw_cfg", "-chardev", "-vnc")


def texts(value: Any) -> set[str]:
    """Return every text in a value of JSON."""
    if isinstance(value, dict):
        return {text for item in value.values() for text in texts(item)}
    return {value} if isinstance(value, str) else set()


# The helpers that look for an option's value would take a word like "-device" for an option.
@given(st.lists(PATHS, min_size=10, max_size=10), TEXT.map("quiet {}".format))
def test_no_path_adds_a_word_or_an_option(paths: list[Path], arguments: str) -> None:
    """Each is one value: whole in JSON, or with its commas doubled."""
    full = {"display": "vnc", "cdrom": "/a.iso", "disks": [{"backing": "/b.qcow2"}]}
    standard = AROUND._replace(kernel=RUN, initrd=RUN, firmware_files={"keys": RUN})
    around = standard._replace(
        qmp=paths[0],
        watch=paths[9],
        serial=paths[1],
        console_log=paths[2],
        vnc=paths[3],
        disks={"hda": paths[4]},
        media={"cdrom": paths[5], "hda": paths[6]},
        firmware_code=str(paths[7]),
        uefi_variables=paths[8],
        firmware_files={"keys": paths[0]},
        kernel_arguments=arguments,
    )
    expected = argv(standard, **full)
    found = argv(around, **full)
    assert len(found) == len(expected)
    for option in ("-blockdev", "-device", "-netdev", "-object"):
        assert len(objects(found, option)) == len(objects(expected, option))
    inside = {text for item in objects(found, "-blockdev") for text in texts(item)}
    assert {str(path) for path in paths[4:9]} <= inside
    for option in OF_TEXT:
        for here, there in zip(values(found, option), values(expected, option), strict=True):
            assert here.replace(",,", "").count(",") == there.count(",")
    assert values(found, "-append") == [arguments]


PILLAR_TEXT = st.sampled_from(["max,+x", "/a,b.iso", '/a"},"x":"', "pc,accel=tcg", "user,x"]) | ANY


@given(st.sampled_from(["cpu", "accel", "cdrom", "boot"]), PILLAR_TEXT)
def test_no_text_from_the_pillar_adds_a_word_or_an_option(name: str, text: str) -> None:
    """What is refused never gets here; what is taken is one value in its place."""
    try:
        vm = declared(**{name: text})
    except SpecError:
        return
    line = command.argv("master", vm, AROUND)
    assert len(line) == len(argv(**({"cdrom": "/a.iso"} if name == "cdrom" else {})))
    for option in ("-cpu", "-accel"):
        assert "," not in values(line, option)[0]


def test_the_launch_script_frees_what_a_killed_qemu_has_left(tmp_path: Path) -> None:
    """Only where the last start has not ended in good order; and QEMU runs whatever comes of it."""
    tool = tmp_path / "qemu-img"
    tool.write_text('#!/bin/sh\necho "$*"; exit 1\n', encoding="utf-8")
    tool.chmod(0o755)
    path = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    mark = tmp_path / "in use"
    images = [tmp_path / "a b.qcow2", tmp_path / "c.qcow2"]
    script = command.launch_script("master", ["echo", "runs"], images, mark)
    said = [
        subprocess.run(
            ["/bin/sh"], input=script, capture_output=True, text=True, check=True, env=path
        ).stdout.splitlines()
        for _ in range(2)
    ]
    checks = [f"check -q -f qcow2 -r leaks {image}" for image in images]
    assert said == [["runs"], [*checks, "runs"]]


def test_the_launch_script_hands_over_every_word_as_it_is() -> None:
    """Read by a real shell: what a supervisor runs, a person can run."""
    words = ["a b", "'", '"', "$HOME", "`id`", "\\", "a\nb", "", "*", "{,}", "#", "é"]
    show = "import json, sys; print(json.dumps(sys.argv[1:]))"
    script = command.launch_script("master", [sys.executable, "-I", "-c", show, *words])
    assert script.startswith(
        "#!/bin/sh\n# master: started by its supervisor, as the user qemulab.\nexec "
    )
    shell = subprocess.run(["/bin/sh"], input=script, capture_output=True, text=True, check=True)
    assert json.loads(shell.stdout) == words
