"""What systemd and supervisord are told of a process, to the letter."""

from __future__ import annotations

import configparser
import shlex
from pathlib import Path

import _qemulab_run_by_supervisord_programs as programs
import _qemulab_run_by_systemd_units as systemd_units
import _qemulab_run_units as units
import pytest
from _qemulab_run_units import Unit

VM = Unit(
    kind="vm",
    lab="lab",
    name="master",
    launch=Path("/state/launch"),
    user="qemulab",
    prepare=Path("/state/prepare"),
    powerdown=Path("/state/powerdown"),
    binds=(("/srv/a.iso", "/run/media/cdrom"),),
    writable=(Path("/state/disks"), Path("/run/master")),
    devices=("/dev/kvm",),
    grace=35,
)
DNSMASQ = Unit(
    kind="dnsmasq",
    lab="lab",
    name="vmlan",
    launch=Path("/state/dnsmasq"),
    user="qemulab",
    capabilities=("net_admin", "net_bind_service"),
    always=True,
)
ODD = '/srv/a b/it\'s "50%": c\\d $HOME.iso'


def test_units_are_named_by_kind_lab_and_name() -> None:
    """systemd knows all labs of a host, a supervisord only its own."""
    assert VM.service == "qemulab-vm@lab:master.service"
    assert VM.program == "vm-master"
    assert units.template_name("vm") == "qemulab-vm@.service"


# systemd

HARDENING = """\
NoNewPrivileges=yes
ProtectSystem=strict
ProtectHome=yes
PrivateTmp=yes
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectKernelLogs=yes
ProtectControlGroups=yes
ProtectClock=yes
ProtectHostname=yes
ProtectProc=invisible
RestrictNamespaces=yes
RestrictSUIDSGID=yes
RestrictRealtime=yes
LockPersonality=yes
SystemCallArchitectures=native
UMask=0077
DevicePolicy=closed
"""
END = "\n[Install]\nWantedBy=multi-user.target\n"
TEMPLATES = {
    "hub": f"""\
# Made by qemulab; removed with the last lab.
[Unit]
Description=qemulab network hub %i
StartLimitIntervalSec=60
StartLimitBurst=30

[Service]
Type=exec
User=qemulab
Group=qemulab
{HARDENING}RestrictAddressFamilies=AF_INET AF_UNIX
OOMPolicy=continue
KillMode=mixed
RestartSec=200ms
{END}""",
    "dnsmasq": f"""\
# Made by qemulab; removed with the last lab.
[Unit]
Description=qemulab DHCP and DNS server %i
StartLimitIntervalSec=60
StartLimitBurst=30
After=qemulab-hub@%i.service

[Service]
Type=exec
User=qemulab
Group=qemulab
{HARDENING}RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX AF_NETLINK AF_PACKET
OOMPolicy=continue
KillMode=mixed
RestartSec=200ms
{END}""",
    "vm": f"""\
# Made by qemulab; removed with the last lab.
[Unit]
Description=qemulab machine %i
StartLimitIntervalSec=60
StartLimitBurst=5

[Service]
Type=exec
User=qemulab
Group=qemulab
{HARDENING}RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX
OOMPolicy=continue
KillMode=mixed
RestartSec=1
{END}""",
}


@pytest.mark.parametrize("kind", units.KINDS)
def test_a_template_has_what_all_units_of_a_kind_share(kind: str) -> None:
    """User, hardening, restarts."""
    assert systemd_units.systemd_template(kind, "qemulab") == TEMPLATES[kind]


def test_a_drop_in_has_what_is_one_machines_own() -> None:
    """It is prepared as root, keeps no capability and reads its disc where it lies."""
    assert systemd_units.systemd_drop_in(VM) == (
        "# Made by qemulab; removed with the unit.\n"
        "[Service]\n"
        "ExecStartPre=+/bin/sh /state/prepare\n"
        "ExecStart=/bin/sh /state/launch\n"
        "ExecStop=/bin/sh /state/powerdown\n"
        "Restart=on-failure\n"
        "TimeoutStopSec=35\n"
        "CapabilityBoundingSet=\n"
        "AmbientCapabilities=\n"
        "DeviceAllow=/dev/kvm rwm\n"
        "ReadWritePaths=-/state/disks\n"
        "ReadWritePaths=-/run/master\n"
        'BindReadOnlyPaths="/srv/a.iso":"/run/media/cdrom"\n'
    )


def test_systemd_makes_the_directory_of_the_sockets_where_it_can() -> None:
    """Then nothing is left that a script would have to prepare."""
    text = systemd_units.systemd_drop_in(VM._replace(runtime=Path("/run/qemulab/lab/vms/master")))
    assert "RuntimeDirectory=qemulab/lab/vms/master\nRuntimeDirectoryMode=0700\n" in text
    assert "ExecStartPre" not in text


def test_what_waits_for_the_host_is_tried_for_good() -> None:
    """
    systemd gives up otherwise, after five tries in a minute, and supervisord after ten, in one.

    Source: systemd.unit(5), and supervisord's documentation of ``startretries``.
    """
    patient = VM._replace(patient=True)
    program = programs.supervisord_program(patient, Path("/w"), Path("/l"))
    assert "startsecs=1\nstartretries=1000000\n" in program
    text = systemd_units.systemd_drop_in(patient)
    assert "[Unit]\nStartLimitIntervalSec=0\n[Service]\nRestartSec=5\n" in text


def test_a_drop_in_leaves_out_what_a_unit_has_not() -> None:
    """A server keeps the capabilities that it names, and is always started again."""
    assert systemd_units.systemd_drop_in(DNSMASQ) == (
        "# Made by qemulab; removed with the unit.\n"
        "[Service]\n"
        "ExecStart=/bin/sh /state/dnsmasq\n"
        "Restart=always\n"
        "TimeoutStopSec=5\n"
        "CapabilityBoundingSet=CAP_NET_ADMIN CAP_NET_BIND_SERVICE\n"
        "AmbientCapabilities=CAP_NET_ADMIN CAP_NET_BIND_SERVICE\n"
    )


def test_a_path_with_anything_in_it_is_one_word_to_systemd() -> None:
    """Quotes and backslashes are escaped, a percent sign is no specifier."""
    text = systemd_units.systemd_drop_in(VM._replace(binds=((ODD, "/run/media/cdrom"),)))
    assert text.splitlines()[-1] == (
        r'BindReadOnlyPaths="/srv/a b/it'
        r"'"
        r's \"50%%\": c\\d $HOME.iso":"/run/media/cdrom"'
    )


ODD_ROOT = '/srv/my lab %n $HOME "q" it\'s \\x'


def odd(unit: Unit) -> Unit:
    """Return a unit of a lab whose root is at an odd place."""
    return unit._replace(
        launch=Path(ODD_ROOT, "launch"),
        prepare=Path(ODD_ROOT, "prepare"),
        powerdown=Path(ODD_ROOT, "powerdown"),
        writable=(Path(ODD_ROOT, "disks"),),
        binds=(),
    )


def test_a_root_with_anything_in_it_is_one_word_to_systemd() -> None:
    """A dollar sign is doubled in a command line, where it begins a variable, and only there."""
    text = systemd_units.systemd_drop_in(odd(VM))
    command = '/srv/my lab %%n $$HOME \\"q\\" it\'s \\\\x'
    wanted = [
        f'ExecStartPre=+/bin/sh "{command}/prepare"',
        f'ExecStart=/bin/sh "{command}/launch"',
        f'ExecStop=/bin/sh "{command}/powerdown"',
    ]
    assert text.splitlines()[2:5] == wanted
    assert text.splitlines()[-1] == f'ReadWritePaths="-{command.replace("$$", "$")}/disks"'


def test_a_root_with_anything_in_it_is_one_value_to_supervisord() -> None:
    """As its own parser reads it: comments and expressions taken out, then words."""
    program = programs.supervisord_program(odd(VM), Path(ODD_ROOT, "run"), Path(ODD_ROOT, "log"))
    root = Path(ODD_ROOT)
    own = programs.supervisord_configuration(root / "socket", root / "pid", root / "log", "units")
    parsed = configparser.RawConfigParser(inline_comment_prefixes=(";", "#"))
    parsed.read_string(program + own)
    command = parsed["program:vm-master"]["command"] % {}
    assert shlex.split(command) == ["/bin/sh", f"{ODD_ROOT}/run"]
    assert parsed["program:vm-master"]["stdout_logfile"] % {} % {} == f"{ODD_ROOT}/log"
    for section, key, name in (
        ("supervisord", "logfile", "log"),
        ("supervisord", "pidfile", "pid"),
        ("unix_http_server", "file", "socket"),
    ):
        assert parsed[section][key] % {} == f"{ODD_ROOT}/{name}"


# supervisord


def test_supervisord_is_told_of_a_machine() -> None:
    """It starts nothing by itself, and starts again what failed."""
    text = programs.supervisord_program(VM, Path("/state/run"), Path("/log/vm-master.log"))
    assert text == (
        "[program:vm-master]\n"
        "command=/bin/sh /state/run\n"
        "autostart=false\n"
        "autorestart=unexpected\n"
        "exitcodes=0\n"
        "startsecs=1\n"
        "startretries=10\n"
        "stopsignal=TERM\n"
        "stopwaitsecs=35\n"
        "killasgroup=true\n"
        "directory=/\n"
        "redirect_stderr=true\n"
        "stdout_logfile=/log/vm-master.log\n"
        "stdout_logfile_maxbytes=1MB\n"
        "stdout_logfile_backups=1\n"
    )
    assert "autorestart=true\n" in programs.supervisord_program(DNSMASQ, Path("/w"), Path("/l"))


def test_supervisords_own_configuration_is_its_labs() -> None:
    """One socket, for root alone."""
    text = programs.supervisord_configuration(
        Path("/run/lab/supervisord.sock"),
        Path("/run/lab/supervisord.pid"),
        Path("/log/supervisord.log"),
        "units",
    )
    assert text == (
        "; Made by qemulab.\n"
        "[supervisord]\n"
        "logfile=/log/supervisord.log\n"
        "logfile_maxbytes=1MB\n"
        "logfile_backups=1\n"
        "pidfile=/run/lab/supervisord.pid\n"
        "directory=/\n"
        "umask=022\n"
        "user=root\n"
        "[unix_http_server]\n"
        "file=/run/lab/supervisord.sock\n"
        "chmod=0700\n"
        "[rpcinterface:supervisor]\n"
        "supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface\n"
        "[include]\n"
        "files=units/*.ini\n"
    )
    parsed = configparser.RawConfigParser()
    parsed.read_string(text)
    assert parsed.sections() == [
        "supervisord",
        "unix_http_server",
        "rpcinterface:supervisor",
        "include",
    ]


def test_a_wrapper_prepares_binds_drops_and_becomes_the_machine() -> None:
    """As root, then in a mount namespace of its own, then as the user: one process."""
    drop = (
        "--reuid=qemulab --regid=qemulab --init-groups --no-new-privs "
        "--bounding-set=-all --inh-caps=-all --ambient-caps=-all"
    )
    assert programs.supervisord_wrapper(VM, Path("/state/run")) == (
        "#!/bin/sh\n"
        "# Becomes the unit vm-master of the lab lab.\n"
        "set -e\n"
        'if [ "$1" != inside ]; then\n'
        "    . /state/prepare\n"
        "    exec unshare --mount --propagation private /bin/sh /state/run inside\n"
        "fi\n"
        "mount -o rbind,ro /srv/a.iso /run/media/cdrom\n"
        "umask 0077\n"
        f"exec setpriv {drop} /bin/sh /state/launch\n"
    )


def test_a_wrapper_without_binds_needs_no_namespace() -> None:
    """And keeps the capabilities that are named."""
    keep = "-all,+net_admin,+net_bind_service"
    assert programs.supervisord_wrapper(DNSMASQ, Path("/state/run")) == (
        "#!/bin/sh\n"
        "# Becomes the unit dnsmasq-vmlan of the lab lab.\n"
        "set -e\n"
        "umask 0077\n"
        "exec setpriv --reuid=qemulab --regid=qemulab --init-groups --no-new-privs "
        f"--bounding-set={keep} --inh-caps={keep} --ambient-caps={keep} "
        "/bin/sh /state/dnsmasq\n"
    )


def test_a_path_with_anything_in_it_is_one_word_to_the_shell() -> None:
    """Quoted where it stands."""
    text = programs.supervisord_wrapper(VM._replace(binds=((ODD, "/run/a b"),)), Path("/state/run"))
    mounts = [shlex.split(line) for line in text.splitlines() if line.startswith("mount ")]
    assert mounts == [["mount", "-o", "rbind,ro", ODD, "/run/a b"]]
