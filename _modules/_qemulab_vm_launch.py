"""
What a machine is started with: command line, scripts, unit.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from shlex import quote

import _qemulab_guest_contents as guest
import _qemulab_host_probe as probe
import _qemulab_host_seam as host
import _qemulab_lan_resolver as etc
import _qemulab_pillar_spec as spec
import _qemulab_run_log_cutter as consoles
import _qemulab_vm_command as command
import _qemulab_vm_hardware as hardware
import _qemulab_vm_media as vm_media
from _qemulab_host_seam import File
from _qemulab_host_seam import HostError
from _qemulab_pillar_keys import USER_NETWORK
from _qemulab_pillar_keys import Network
from _qemulab_pillar_keys import Vm
from _qemulab_run_site import Site
from _qemulab_run_units import Unit
from _qemulab_run_units import script
from _qemulab_vm_command import Surroundings


def surroundings(
    site: Site, name: str, vm: Vm, networks: Mapping[str, Network] | None = None
) -> Surroundings:
    """
    Return what the host contributes to a machine's command line.

    networks
        The networks it may sit on. Default: those that the lab has.

    Raises HostError where QEMU, the firmware, the guest image or a network is missing, or where a
    newer release has made the machine.
    """
    layout = site.layout
    networks = site.store.all_networks() if networks is None else networks
    for nic in vm.nics:
        if nic.network != USER_NETWORK and nic.network not in networks:
            problem = f"{name} sits on network {nic.network}, which the lab {site.lab} has not"
            raise HostError(problem, hint="qemulab.network_present makes it")
    found = site.firmware(vm.machine) if vm.firmware == "uefi" else None
    accel = site.accel(vm.accel)
    built_in = vm.boot == "guest"
    if built_in and not (layout.guest / "guest.json").exists():
        raise HostError("the built-in guest is not built", hint="qemulab.guest_present builds it")
    return Surroundings(
        qemu=probe.binary("qemu-system-x86_64"),
        accel=accel,
        uuid=spec.vm_uuid(site.lab, name),
        hardware=hardware.find_known(site, name),
        qmp=layout.qmp(name),
        watch=layout.watch(name),
        serial=layout.serial(name),
        console_log=layout.console(name),
        vnc=layout.vnc(name),
        disks={disk.name: layout.disk(name, disk.name) for disk in vm.disks},
        media=vm_media.media_paths(site, name, vm),
        networks=networks,
        firmware_code=found.code if found else "",
        firmware_code_format=found.code_format if found else "raw",
        uefi_variables=layout.uefi_variables(name),
        kernel=layout.guest / "vmlinuz" if built_in else None,
        initrd=layout.guest / "initrd" if built_in else None,
        kernel_arguments=guest.kernel_arguments(accel),
        firmware_files=handed_over(site, name),
    )


def handed_over(site: Site, name: str) -> dict[str, Path]:
    """Return the files that a machine's firmware shows its guest, by their names there."""
    files = {"authorized_keys": site.layout.authorized_keys}
    # One that was started before there were any has none until its next start.
    if site.layout.host_key(name).exists():
        files["ssh_host_ed25519_key"] = site.layout.host_key(name)
    return files


def argv(site: Site, name: str, vm: Vm, networks: Mapping[str, Network] | None = None) -> list[str]:
    """Return QEMU's command line for a machine, as it would be started now."""
    return command.argv(name, vm, surroundings(site, name, vm, networks))


def vnc_address(site: Site, name: str, vm: Vm) -> str | None:
    """Return where a machine's screen is: ``address:port``, or a socket's path."""
    if vm.display != "vnc":
        return None
    return f"127.0.0.1:{vm.vnc_port}" if vm.vnc_port else str(site.layout.vnc(name))


def unit(site: Site, name: str, vm: Vm) -> Unit:
    """Return the unit of a machine."""
    layout = site.layout
    binds = [
        (source, str(vm_media.media_paths(site, name, vm)[item]))
        for item, source in vm_media.media(vm).items()
    ]
    binds += etc.binds(site, vm)
    return Unit(
        kind="vm",
        lab=site.lab,
        name=name,
        launch=layout.launch(name),
        user=host.USER,
        prepare=layout.vm(name) / "prepare",
        runtime=layout.vm_runtime(name) if layout.root == Path("/") else None,
        powerdown=layout.vm(name) / "powerdown",
        binds=tuple(binds),
        writable=(layout.disks(name), layout.vm_runtime(name), layout.consoles),
        devices=("/dev/kvm",),
        grace=vm.stop_grace + 5,
        autostart=vm.autostart,
        # Such an address may come after the machine's start with the host, and go and come again.
        patient=any(
            not forward.host_address.startswith(("127.", "0.0.0.0"))
            for nic in vm.nics
            for forward in nic.forwards or ()
        ),
        timer=consoles.timer_name(site.lab),
    )


def prepare_script(site: Site, name: str, vm: Vm) -> str:
    """Return what runs as root before each start: the sockets' directory, the binds' targets."""
    layout = site.layout
    parent = quote(str(layout.vm_runtime(name).parent))
    # Whatever the umask of a unit is, our user has to come through.
    lines = [f"[ -d {parent} ] || (umask 022; mkdir -p {parent})"]
    for path in (quote(str(layout.vm_runtime(name))), quote(str(layout.consoles))):
        # Not root's: systemd may have made it, for the binds below it. An apply has done all this.
        fine = f"[ -d {path} ] && [ ! -O {path} ]"
        lines.append(f"{fine} || install -d -m 0700 -o {host.USER} -g {host.USER} {path}")
    if etc.network_of(vm):
        elsewhere = quote(str(layout.host_etc))
        lines.append(f"[ -d {elsewhere} ] || mkdir -p {elsewhere}")
    targets = [quote(str(path)) for path in vm_media.media_paths(site, name, vm).values()]
    if targets:
        directory = quote(str(layout.media(name)))
        lines.append(f"[ -d {directory} ] || mkdir {directory}")
    # systemd has them in place by then, read-only.
    lines += [f"[ -e {path} ] || : > {path}" for path in targets]
    return script(f"Prepares the start of {name}.", lines)


def powerdown_script(site: Site, name: str, vm: Vm) -> str:
    """Return what systemd runs to stop a machine: the power button, then a wait for its end."""
    qmp = site.layout.qmp(name)
    commands = r'{"execute":"qmp_capabilities"}\n{"execute":"system_powerdown"}\n'
    lines = [
        '[ -n "$MAINPID" ] || exit 0',
        # Not by its path: socat has a syntax of its own for that.
        f"cd {quote(str(qmp.parent))} || exit 0",
        f"printf '{commands}' | socat -t1 - UNIX-CONNECT:{qmp.name} >/dev/null || exit 0",
        f"left={vm.stop_grace * 5}",
        'while [ "$left" -gt 0 ] && [ -e "/proc/$MAINPID" ]; do',
        "    sleep 0.2",
        "    left=$((left - 1))",
        "done",
    ]
    return script(f"Presses the power button of {name} and waits.", lines)


def images(site: Site, name: str, vm: Vm) -> list[Path]:
    """Return the images that are a machine's own."""
    own = [site.layout.disk(name, disk.name) for disk in vm.disks]
    return own + ([site.layout.uefi_variables(name)] if vm.firmware == "uefi" else [])


def scripts(site: Site, name: str, vm: Vm) -> list[File]:
    """Return what a supervisor runs for a machine; each start writes it anew."""
    directory = site.layout.vm(name)
    texts = {
        directory / "prepare": prepare_script(site, name, vm),
        directory / "powerdown": powerdown_script(site, name, vm),
        site.layout.launch(name): command.launch_script(
            name, argv(site, name, vm), images(site, name, vm), site.layout.in_use(name)
        ),
    }
    return [File(path, text, mode=0o755, durable=False) for path, text in texts.items()]
