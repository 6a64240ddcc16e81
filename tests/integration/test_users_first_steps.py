"""
What a user meets beside the recipe's own lab: empty pillars, odd places, many devices, a screen.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import harness
import labs
import pytest
from labs import Lab
from labs import blank_disc
from labs import tiny

pytestmark = [
    pytest.mark.needs_root,
    pytest.mark.needs("qemu-system-x86_64", "socat", "dnsmasq", "unshare", "nsenter"),
]


@pytest.mark.parametrize("empty", [{}, {"name": "other"}, {"networks": {}, "vms": None}])
def test_b10_empty_pillar_is_a_no_op_that_says_so(
    namespace_host: harness.Host, empty: dict[str, object]
) -> None:
    """No package, no user, no file."""
    lab = Lab(namespace_host)
    for test in (True, False):
        states = lab.apply(declared=empty, test=test)
        assert list(states) == ["declared lab-declared"]
        assert "declares no network and no machine" in states["declared lab-declared"]["comment"]
    assert not any("lab" in Path(path).parts[4:5] for path in lab.leftovers().get("files", set()))
    assert namespace_host.run(["id", "qemulab"], check=False).returncode != 0


def test_everything_faulty_is_told_at_once(namespace_host: harness.Host) -> None:
    """With paths; in one line each; by every function that takes a pillar; without a traceback."""
    lab = Lab(namespace_host)
    pillar = lab.pillar(
        {
            "networks": {"vmlan": {"address": "10.0.3.1", "interface": "a,b"}},
            "vms": {"x y": {}, "a": {"memory": "2G", "nics": [{"mac": "01:00:00:00:00:01"}]}},
        }
    )
    done = namespace_host.run(
        [harness.REPO / "salt-call", "state.apply", "lab"],
        check=False,
        env={"QEMULAB_PILLAR": str(pillar)},
    )
    assert done.returncode != 0
    assert "Traceback" not in done.stdout + done.stderr
    wanted = [
        "lab:networks:vmlan:address:",
        "lab:networks:vmlan:interface:",
        "lab:vms:x y:",
        "lab:vms:a:memory:",
        "lab:vms:a:nics:0:mac:",
    ]
    with pytest.raises(harness.HostFailure, match="exit status 1"):
        lab.host.salt_call("qemulab.validate", pillar=pillar)
    faults = lab.host.salt_call("qemulab.validate", pillar=pillar, check=False)["faults"]
    assert len(faults) == len(wanted)
    for path in wanted:
        assert path in done.stdout
        assert any(fault.startswith(path) for fault in faults)


NO_YAML = [
    ("lab:\n  vms: {a: [}\n", "line 2, column 13"),
    ("lab:\n  vms: {{ nothing.there }}\n", "'nothing' is undefined"),
    ("lab:\n  vms:\n    a:\n\tcpus: 1\n", "line 4 of {} has a tab: YAML wants blanks"),
    ("lab:\n  name: @b\n", "line 2 of {}"),
    ("lab:\n  vms: {a: {}, a: {}}\n", "line 2"),
]


def test_b10_a_pillar_that_is_no_yaml_is_told_by_its_line(namespace_host: harness.Host) -> None:
    """Not by Salt's call stack; a tab is called a tab."""
    pillar = namespace_host.shared / "pillar.sls"
    call = [harness.REPO / "salt-call", "state.apply", "lab"]
    for text, said in NO_YAML:
        pillar.write_text(text, encoding="utf-8")
        done = namespace_host.run(call, check=False, env={"QEMULAB_PILLAR": str(pillar)})
        assert done.returncode != 0
        assert "Traceback" not in done.stdout + done.stderr and said.format(pillar) in done.stderr


MISTYPED = [
    (["qemulab.vm_inf"], "'qemulab.vm_inf' is not available; did you mean qemulab.vm_info?"),
    (["qemulab.vm_sotp", "a"], "'qemulab.vm_sotp' is not available; did you mean"),
    (["qemulb.vm_list"], "'qemulb.vm_list' is not available; did you mean qemulab.vm_list?"),
    (["qemulab.vm_stop", "mastr"], "the lab lab has no machine mastr; it has none"),
    (["qemulab.vm_ensure", "a", "{memmory: 64}"], "unknown key; did you mean memory?"),
    (["qemulab.vm_list", "lab=x y"], "a name has 1 to 32 letters"),
    (["qemulab.vm_stop", "a", "graze=3"], "graze"),
    (["qemulab.vm_stop"], "missing 1 required positional argument: 'name'"),
    (["state.single", "qemulab.vm_running", "a", "memmory=64"], "did you mean memory?"),
    (["state.single", "qemulab.vm_stopped", "a", "graze=3"], "'graze' is an invalid keyword"),
]


def test_a_mistyped_name_is_told_in_a_line(namespace_host: harness.Host) -> None:
    """Of a function, argument, machine, lab or key: without twenty lines of documentation."""
    usage = "    sys.doc "
    for words, said in MISTYPED:
        done = namespace_host.run([harness.REPO / "salt-call", *words], check=False)
        assert done.returncode != 0
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        assert said in done.stdout + done.stderr
        assert len(lines) == 1 or (lines[1:], done.stdout) == (["Usage:"], f"{usage}{words[0]}\n")
        assert "CLI Example" not in done.stdout + done.stderr and "Traceback" not in done.stderr


def test_debug_shows_every_command_exchange_and_wait(namespace_host: harness.Host) -> None:
    """Of an apply that makes a machine; and not a line without ``-l debug``."""
    lab = Lab(namespace_host)
    pillar = lab.pillar({"networks": {"n": {}}, "vms": {"a": tiny(nics=[])}})
    call = [harness.REPO / "salt-call", "-l", "debug", "state.apply", "lab"]
    done = namespace_host.run(call, env={"QEMULAB_PILLAR": str(pillar)})
    ours = [line.partition("qemulab: ")[2] for line in done.stderr.splitlines() if "[DEBUG" in line]
    for said in (
        r"command ssh-keygen .*: exit status 0 \([0-9.]+ ms\)",
        r"command /\S+/python3?\S* -m supervisor.supervisord .*: not waited for",
        r"supervisord \[.*\('startProcess', 'vm-a'.*",  # added before that, or known already
        r"qmp /run/qemulab/lab/vms/a/qmp.sock query-uuid, query-status.*: .*'running'.*",
        r"wait [\w.<>]+, [0-9.]+ s at most: it is so .*",
    ):
        assert any(re.fullmatch(said, line) for line in ours), said
    assert "PRIVATE KEY" not in done.stderr
    done = namespace_host.run([*call[:1], *call[3:]], env={"QEMULAB_PILLAR": str(pillar)})
    assert "qemulab: command" not in done.stderr


@pytest.mark.parametrize("name", ["../../../etc", "x y", 5, ["lab"]])
def test_b1_a_faulty_name_is_no_path(namespace_host: harness.Host, name: object) -> None:
    """Nothing is taken away by it, of no lab; the fault is told instead."""
    lab = Lab(namespace_host)
    lab.apply(declared={"vms": {"a": tiny(nics=[])}})
    for sls in ("lab", "lab.clean", "lab.purge"):
        states = lab.apply(sls, declared={"name": name, "vms": {"a": {}}}, check=False)
        assert list(states) == ["declared lab-declared"]
        assert "lab:name: " in states["declared lab-declared"]["comment"]
    assert lab.call("vm_list") == {"a": "running"}
    for words in (["qemulab.vm_remove", "../../x", "purge=True"], ["qemulab.vm_list", "lab=../x"]):
        done = namespace_host.run([harness.REPO / "salt-call", *words], check=False)
        assert done.returncode != 0 and "a name has 1 to 32 letters" in done.stdout + done.stderr
        assert "Traceback" not in done.stdout + done.stderr


def test_checkout_in_a_path_with_spaces(host: harness.Host) -> None:
    """Up, and away again."""
    Lab(host)
    copy = "/srv/a checkout, of: mine %n $HOME it's"
    host.run(["mkdir", "-p", copy])
    # .venv/var has caches, other Salts and a whole Debian: nothing that the copy needs.
    pack = 'tar -C "$0" --exclude=./.venv/var -c . | tar -C "$1" -x'
    host.run(["sh", "-c", pack, harness.REPO, copy])
    pillar = host.shared / "my pillar.sls"
    pillar.write_text(json.dumps({"lab": {"networks": {"n": {}}, "vms": {"a": tiny(nics=[])}}}))
    env = {"QEMULAB_PILLAR": str(pillar)}
    for sls in ("lab", "lab", "lab.purge"):
        host.run([f"{copy}/salt-call", "state.apply", sls], env=env)
    written = {path for path in host.leftovers()["files"] if path.startswith("/srv")}
    assert not any("pyc" in path and "/.venv/" not in path for path in written)
    status = host.run(["git", "-C", copy, "-c", f"safe.directory={copy}", "status", "--porcelain"])
    assert ".venv" not in status.stdout


def test_root_in_a_path_with_anything(host: harness.Host) -> None:
    """Up, used, stopped by its power button, and away again; nothing is outside of it."""
    lab = Lab(host)
    iso = blank_disc(host.shared / "a disc.iso")
    root = '/srv/my lab %n $HOME "q" it\'s \\x'
    vm = tiny(nics=[{"network": "n"}], disks=[{"size": "1M"}], cdrom=str(iso))
    names = {"dns": {"names": {"mirror": "10.0.3.9"}}}
    pillar = lab.pillar({"networks": {"n": names}, "vms": {"a": vm}})
    env = {"QEMULAB_PILLAR": str(pillar), "QEMULAB_ROOT": root}

    def call(*words: str) -> dict[str, object]:
        command = [harness.REPO / "salt-call", "--out=json", *words]
        found = json.loads(host.run(command, env=env).stdout)["local"]
        assert isinstance(found, dict)
        return found

    call("state.apply", "lab")
    assert lab.changes(labs.flat(call("state.apply", "lab"))) == {}
    assert call("qemulab.vm_list") == {"a": "running"}
    dig = ["dig", "+short", "+time=2", "+tries=2", "@10.0.3.1", "-q", "mirror"]
    assert host.run(dig).stdout.strip() == "10.0.3.9"
    assert call("qemulab.vm_stop", "a")["how"] == "quit"
    call("state.apply", "lab.purge")
    left = lab.leftovers().get("files", set()) - {"/var/lib/qemulab"}
    assert not [path for path in left if "qemulab" in path and "/guest" not in path]


@pytest.mark.parametrize("root", ["/srv/a [b]", "/srv/a ;b", "/srv/../a"])
def test_root_that_no_supervisor_could_be_told(namespace_host: harness.Host, root: str) -> None:
    """It is refused in one line."""
    done = namespace_host.run(
        [harness.REPO / "salt-call", "qemulab.vm_list"], check=False, env={"QEMULAB_ROOT": root}
    )
    assert done.returncode != 0 and "Traceback" not in done.stdout + done.stderr
    assert "qemulab.root: " in done.stdout + done.stderr


def test_many_disks_and_cards(namespace_host: harness.Host) -> None:
    """As many as are declared; IDE while it has room, then SCSI."""
    lab = Lab(namespace_host)
    declared = {
        "networks": {"one": {}, "two": {"address": "10.0.4.1/24"}},
        "vms": {
            "a": tiny(
                disks=[{"size": "1M"} for _ in range(7)] + [{"size": "1M", "bus": "virtio"}],
                nics=[{"network": n} for n in ("one", "two", "user", "one", "two", "user")],
            ),
            "b": tiny(machine="q35", disks=[{"size": "1M"}] * 2, nics=[{"network": "two"}]),
        },
    }
    states = lab.apply(declared=declared)
    assert all(state["result"] is True for state in states.values())
    assert lab.call("vm_list") == {"a": "running", "b": "running"}
    assert lab.changes(lab.apply(declared=declared)) == {}
    assert {"one", "two"} <= namespace_host.interfaces()


def test_screen(namespace_host: harness.Host) -> None:
    """VNC on a UNIX socket, or on loopback at a port; a real client's handshake."""
    lab = Lab(namespace_host)
    declared = {
        "vms": {
            "a": tiny(display="vnc", nics=[]),
            "b": tiny(display="vnc", vnc_port=5907, nics=[]),
        }
    }
    lab.apply(declared=declared)
    path = lab.call("vm_info", "a")["vnc"]
    assert lab.call("vm_info", "b")["vnc"] == "127.0.0.1:5907"
    for address in (f"UNIX-CONNECT:{path}", "TCP:127.0.0.1:5907"):
        said = namespace_host.run(["sh", "-c", f"sleep 1 | socat -t1 - {address} | head -c 12"])
        assert said.stdout.startswith("RFB 003.")
    assert "tcp 127.0.0.1:5907" in namespace_host.sockets()


def test_f26_port_that_is_taken_is_named_with_its_owner(namespace_host: harness.Host) -> None:
    """Before the start, in words; the other machine runs."""
    lab = Lab(namespace_host)
    taken = namespace_host.spawn(["socat", "TCP-LISTEN:10022,bind=127.0.0.1,reuseaddr,fork", "-"])
    harness.wait_for(
        lambda: "tcp 127.0.0.1:10022" in namespace_host.sockets(), 5, "the port's owner"
    )
    declared = {
        "vms": {
            "a": tiny(nics=[{"network": "user", "forwards": [{"host_port": 10022}]}]),
            "b": tiny(nics=[]),
        }
    }
    states = lab.apply(declared=declared, check=False)
    comment = states["vm_running a"]["comment"]
    assert states["vm_running a"]["result"] is False
    assert "port 10022/tcp on 127.0.0.1 is already taken by socat" in comment
    assert states["vm_running b"]["result"] is True
    taken.kill()


def test_f26_port_that_is_taken_later_costs_no_other(namespace_host: harness.Host) -> None:
    """A running machine keeps the port that it has where it cannot have the new one."""
    lab = Lab(namespace_host)

    def declared(port: int) -> dict[str, object]:
        return {"vms": {"a": tiny(nics=[{"network": "user", "forwards": [{"host_port": port}]}])}}

    lab.apply(declared=declared(10022))
    taken = namespace_host.spawn(["socat", "TCP-LISTEN:10099,bind=127.0.0.1,reuseaddr,fork", "-"])
    harness.wait_for(
        lambda: "tcp 127.0.0.1:10099" in namespace_host.sockets(), 5, "the port's owner"
    )
    state = lab.apply(declared=declared(10099), check=False)["vm_running a"]
    assert state["result"] is False and "already taken by socat" in state["comment"]
    assert "tcp 127.0.0.1:10022" in namespace_host.sockets()
    taken.kill()
    harness.wait_for(
        lambda: "tcp 127.0.0.1:10099" not in namespace_host.sockets(), 5, "the port's release"
    )
    assert lab.apply(declared=declared(10099))["vm_running a"]["result"] is True
    assert "tcp 127.0.0.1:10099" in namespace_host.sockets()


def test_f27_another_dhcp_server_in_the_way_is_told(namespace_host: harness.Host) -> None:
    """With its owner, before anything is started."""
    lab = Lab(namespace_host)
    words = ["dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--pid-file="]
    words += ["--port=0", "--dhcp-range=192.0.2.10,192.0.2.20,255.255.255.0"]
    namespace_host.run(["ip", "address", "add", "192.0.2.1/24", "dev", "lo"])
    with namespace_host.spawn(words) as other:
        harness.wait_for(
            lambda: any(":67" in each for each in namespace_host.sockets()), 5, "the other server"
        )
        state = lab.apply(declared={"networks": {"vmlan": {}}}, check=False)
        comment = state["network_present vmlan"]["comment"]
        assert state["network_present vmlan"]["result"] is False
        assert "port 67/udp, for DHCP, is taken by dnsmasq" in comment
        other.kill()
    assert lab.apply(declared={"networks": {"vmlan": {}}})["network_present vmlan"]["result"]


def test_f30_missing_program_is_told_with_its_package(namespace_host: harness.Host) -> None:
    """By this distribution's name."""
    lab = Lab(namespace_host)
    namespace_host.run(["rm", "/usr/sbin/dnsmasq"])
    assert lab.call("missing_packages", declared={"vms": {"a": {}}}) == ["dnsmasq-base"]
    namespace_host.salt_call("qemulab.lab_ensure")
    done = namespace_host.run(
        [harness.REPO / "salt-call", "qemulab.network_ensure", "vmlan"], check=False
    )
    assert done.returncode != 0
    assert "dnsmasq is not installed\napt-get install dnsmasq-base" in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def test_dry_run_needs_nothing_installed(namespace_host: harness.Host) -> None:
    """Neither QEMU nor socat nor dnsmasq nor iproute2 nor the user."""
    lab = Lab(namespace_host)
    programs = ["qemu-system-x86_64", "qemu-img", "socat", "dnsmasq", "dhcp_release", "ip"]
    for program in programs:
        namespace_host.run(["sh", "-c", f"rm -f /usr/bin/{program} /usr/sbin/{program}"])
    namespace_host.run(["sh", "-c", "rm -f /bin/ip /sbin/ip; rm -rf /usr/share/OVMF"])
    pillar = harness.REPO / "pillar.example"
    words = ["state.sls_id", "lab-vm:master", "lab.vms", "test=True"]
    said = namespace_host.salt_call(*words, pillar=pillar, check=False)
    state = labs.flat(said)["vm_running master"]
    assert state["result"] is None
    assert state["changes"]["memory"] == {"old": None, "new": 2048, "effect": "create"}
    needed = lab.call("missing_packages")
    assert {"qemu-system-x86", "qemu-utils", "ovmf", "socat", "dnsmasq-base"} <= set(needed)


def test_functions_answer_without_a_lab(namespace_host: harness.Host) -> None:
    """Plain data, and None for what is not there."""
    lab = Lab(namespace_host)
    assert lab.call("vm_list") == {}
    assert lab.call("network_list") == []
    assert lab.call("lease_list") == []
    assert lab.call("vm_info", "nobody") is None
    assert lab.call("network_info", "nowhere") is None
    found = lab.call("version")
    assert found["accelerator"]["name"] in ("kvm", "tcg") and found["accelerator"]["reason"]
    assert found["firmware"] and found["qemu"] and found["socat"] and found["dnsmasq"]
    argv = lab.call("vm_argv", "master")["argv"]
    assert argv[0].endswith("qemu-system-x86_64")


def test_console_socket_gives_a_shell(namespace_host: harness.Host) -> None:
    """The serial console is a file to read and a socket to type into; the doctor reads its end."""
    lab = Lab(namespace_host)
    guest = tiny(boot="guest", memory=192, nics=[])
    lab.apply(declared={"vms": {"a": guest}})
    harness.wait_for(lambda: "qemulab: booted" in lab.console("a"), 90, "the guest's report")
    path = lab.call("vm_info", "a")["console"]["socket"]

    def typed(line: str) -> str:
        script = f"(sleep 1; echo; sleep 2; echo '{line}'; sleep 2) | socat -t1 - UNIX:{path}"
        return namespace_host.run(["sh", "-c", script]).stdout

    def doctor() -> list[str]:
        pillar = lab.pillar({"vms": {"a": guest}})
        said = namespace_host.salt_call("qemulab.doctor", pillar=pillar)
        return [line for line in said if "panic" in line]

    assert "42" in typed("echo $((6*7))")
    assert doctor() == ["ok    guests: no serial console ends with a kernel panic"]
    assert "end Kernel panic" in typed("echo c >/proc/sysrq-trigger")
    do = "qemulab.vm_console a, qemulab.vm_reset a"
    assert doctor() == [f"warn  a: its kernel panicked: sysrq triggered crash; {do}"]
    lab.call("vm_reset", "a")
    harness.wait_for(lambda: lab.console("a").count("qemulab: booted") == 2, 90, "a new boot")
    assert doctor() == ["ok    guests: no serial console ends with a kernel panic"]
