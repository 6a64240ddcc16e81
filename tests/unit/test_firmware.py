"""The firmware that a machine boots from: by descriptor, by known path."""

from __future__ import annotations

import json
from typing import Any

import _qemulab_host_firmware as firmware
import pytest

SYSTEM = "/usr/share/qemu/firmware"
LOCAL = "/etc/qemu/firmware"
BOTH = ["pc-i440fx-*", "pc-q35-*"]


def descriptor(name: str, features: list[str], machines: list[str], **mapping: Any) -> str:
    """Return a descriptor as distributions write them, of the files NAME.code and NAME.vars."""
    return json.dumps(
        {
            "description": name,
            "interface-types": ["uefi"],
            "mapping": {
                "device": "flash",
                "executable": {"filename": f"/fw/{name}.code", "format": "raw"},
                "nvram-template": {"filename": f"/fw/{name}.vars", "format": "raw"},
                **mapping,
            },
            "targets": [{"architecture": "x86_64", "machines": machines}],
            "features": ["acpi-s3", *features],
            "tags": [],
        }
    )


# Debian 12's three, in its names and with its features.
DEBIAN = {
    f"{SYSTEM}/40-edk2-x86_64-secure-enrolled.json": descriptor(
        "ms", ["enrolled-keys", "requires-smm", "secure-boot"], ["pc-q35-*"]
    ),
    f"{SYSTEM}/50-edk2-x86_64-secure.json": descriptor(
        "secboot", ["requires-smm", "secure-boot"], ["pc-q35-*"]
    ),
    f"{SYSTEM}/60-edk2-x86_64.json": descriptor("plain", ["verbose-dynamic"], BOTH),
}


def chosen(found: firmware.Firmware | None) -> str | None:
    """Return the name in ``descriptor`` of a firmware that was found."""
    return None if found is None else found.code.removeprefix("/fw/").removesuffix(".code")


def always(_path: str) -> bool:
    return True


@pytest.mark.parametrize(
    "machine",
    ["pc", "q35", "pc-i440fx-7.2", "pc-q35-9.0", "q35,usb=off"],
)
def test_debians_plain_firmware_for_every_machine(machine: str) -> None:
    assert firmware.choose(DEBIAN, machine, always) == firmware.Firmware(
        code="/fw/plain.code",
        code_format="raw",
        vars="/fw/plain.vars",
        vars_format="raw",
        source=f"{SYSTEM}/60-edk2-x86_64.json",
    )


@pytest.mark.parametrize("machine", ["microvm", "isapc", "xenfv", "i440fx", "virt-9.0"])
def test_other_machines_have_none(machine: str) -> None:
    assert firmware.choose(DEBIAN, machine, always) is None


def test_a_pattern_for_one_machine_type() -> None:
    only = {f"{SYSTEM}/60-x.json": descriptor("q35 only", [], ["pc-q35-*"])}
    assert firmware.choose(only, "pc", always) is None
    assert chosen(firmware.choose(only, "q35", always)) == "q35 only"


def test_a_concrete_type_in_a_descriptor() -> None:
    only = {f"{SYSTEM}/60-x.json": descriptor("one", [], ["pc-q35-8.2"])}
    assert chosen(firmware.choose(only, "pc-q35-8.2", always)) == "one"
    assert firmware.choose(only, "pc-q35-9.0", always) is None


def test_file_names_order_whatever_the_directory() -> None:
    added = {**DEBIAN, f"{LOCAL}/55-mine.json": descriptor("mine", [], BOTH)}
    assert chosen(firmware.choose(added, "q35", always)) == "mine"
    added = {**DEBIAN, f"{LOCAL}/99-mine.json": descriptor("mine", [], BOTH)}
    assert chosen(firmware.choose(added, "q35", always)) == "plain"


def test_the_same_name_in_etc_replaces() -> None:
    replaced = {f"{LOCAL}/60-edk2-x86_64.json": descriptor("mine", [], BOTH), **DEBIAN}
    assert chosen(firmware.choose(replaced, "q35", always)) == "mine"


@pytest.mark.parametrize("text", ["", "\n", "{damaged"])
def test_an_empty_file_in_etc_hides(text: str) -> None:
    masked = {
        **DEBIAN,
        f"{LOCAL}/60-edk2-x86_64.json": text,
        f"{SYSTEM}/70-z.json": descriptor("z", [], BOTH),
    }
    assert chosen(firmware.choose(masked, "q35", always)) == "z"


def test_an_empty_file_with_the_system_does_not_hide_etc() -> None:
    masked = {f"{SYSTEM}/60-x.json": "", f"{LOCAL}/60-x.json": descriptor("mine", [], BOTH)}
    assert chosen(firmware.choose(masked, "q35", always)) == "mine"


@pytest.mark.parametrize(
    "damaged",
    [
        "{",
        "[]",
        "null",
        '"text"',
        "{}",
        '{"features": null}',
        descriptor("x", [], BOTH).replace("executable", "missing"),
        descriptor("x", [], BOTH).replace("nvram-template", "missing"),
        descriptor("x", [], BOTH).replace('"targets": [{', '"targets": [3, {'),
        descriptor("x", [], BOTH).replace('"uefi"', '"bios"'),
        descriptor("x", [], BOTH).replace('"x86_64"', '"aarch64"'),
        descriptor("x", [], BOTH).replace('"x86_64"', '"i386"'),
        descriptor("x", [], BOTH).replace('"format": "raw"', '"format": "vmdk"'),
        descriptor("x", [], BOTH, mode="stateless"),
        descriptor("x", [], BOTH, mode="combined"),
        descriptor("x", [], BOTH, device="memory", filename="/fw/x.fd"),
        descriptor("x", ["requires-smm"], BOTH),
        descriptor("x", ["enrolled-keys"], BOTH),
    ],
)
def test_what_does_not_fit_is_passed_over(damaged: str) -> None:
    given = {f"{SYSTEM}/10-x.json": damaged, **DEBIAN}
    assert chosen(firmware.choose(given, "q35", always)) == "plain"


def test_a_readme_is_no_descriptor() -> None:
    given = {f"{SYSTEM}/00-README": descriptor("readme", [], BOTH), **DEBIAN}
    assert chosen(firmware.choose(given, "q35", always)) == "plain"


def test_the_mode_may_be_said() -> None:
    given = {f"{SYSTEM}/60-x.json": descriptor("x", [], BOTH, mode="split")}
    assert chosen(firmware.choose(given, "q35", always)) == "x"


def test_formats_are_honoured() -> None:
    # Fedora's 50-edk2-ovmf-4m-qcow2-x64-nosb.json.
    given = {
        f"{SYSTEM}/50-x.json": descriptor(
            "x",
            [],
            BOTH,
            **{
                "executable": {"filename": "/fw/CODE.qcow2", "format": "qcow2"},
                "nvram-template": {"filename": "/fw/VARS.fd", "format": "raw"},
            },
        )
    }
    assert firmware.choose(given, "q35", always) == firmware.Firmware(
        "/fw/CODE.qcow2", "qcow2", "/fw/VARS.fd", "raw", f"{SYSTEM}/50-x.json"
    )


@pytest.mark.parametrize("gone", ["/fw/first.code", "/fw/first.vars"])
def test_both_files_must_exist(gone: str) -> None:
    given = {f"{SYSTEM}/10-x.json": descriptor("first", [], BOTH), **DEBIAN}
    assert chosen(firmware.choose(given, "q35", lambda path: path != gone)) == "plain"


def test_known_pairs_are_taken_whole() -> None:
    old = {"/usr/share/OVMF/OVMF_CODE.fd", "/usr/share/OVMF/OVMF_VARS.fd"}
    half = {"/usr/share/OVMF/OVMF_CODE_4M.fd"}
    assert firmware.from_known_paths((old | half).__contains__) == firmware.Firmware(
        "/usr/share/OVMF/OVMF_CODE.fd",
        "raw",
        "/usr/share/OVMF/OVMF_VARS.fd",
        "raw",
        "known path",
    )
    assert firmware.from_known_paths(half.__contains__) is None


@pytest.mark.parametrize(
    ("published", "code"),
    [
        # Debian 13, ovmf: no flash of 2 MiB any more.
        ("OVMF/OVMF_CODE_4M OVMF/OVMF_CODE_4M.secboot OVMF/OVMF_VARS_4M", "OVMF/OVMF_CODE_4M.fd"),
        # Fedora 38, edk2-ovmf: the links of older releases beside the files.
        (
            "edk2/ovmf/OVMF_CODE edk2/ovmf/OVMF_VARS edk2/ovmf-4m/OVMF_CODE edk2/ovmf-4m/OVMF_VARS"
            " OVMF/OVMF_CODE OVMF/OVMF_VARS",
            "edk2/ovmf/OVMF_CODE.fd",
        ),
        # Arch, edk2-ovmf 202508.
        ("edk2/x64/OVMF_CODE.4m edk2/x64/OVMF_VARS.4m", "edk2/x64/OVMF_CODE.4m.fd"),
    ],
)
def test_files_that_distributions_publish(published: str, code: str) -> None:
    paths = {f"/usr/share/{name}.fd" for name in published.split()}
    found = firmware.from_known_paths(paths.__contains__)
    assert found is not None and found.code == f"/usr/share/{code}"


def test_known_pairs_are_of_one_kind() -> None:
    for pair in firmware.KNOWN_PAIRS:
        assert "secboot" not in pair.code and ".ms." not in pair.code
        assert pair.vars == pair.code.replace("CODE", "VARS").replace("-code.", "-vars.")
        assert (pair.format == "qcow2") is pair.code.endswith(".qcow2")


def test_fedoras_known_pair_is_qcow2() -> None:
    found = firmware.from_known_paths(lambda path: path.endswith(".qcow2"))
    assert found is not None
    assert (found.code_format, found.vars_format) == ("qcow2", "qcow2")


def test_descriptors_before_paths() -> None:
    assert chosen(firmware.find(DEBIAN, "q35", always)) == "plain"
    found = firmware.find({}, "q35", always)
    assert found is not None
    assert found.source == "known path"
    assert firmware.find({}, "q35", lambda _: False) is None
    assert firmware.find({}, "microvm", always) is None
