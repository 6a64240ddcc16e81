"""Whose public keys are let in: what lies in a home is somebody else's, and may be anything."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
from pathlib import Path

import _qemulab_vm_access as access
import pytest

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGNvbW1lbnQ me@laptop"
OTHERS = {
    "ssh2.pub": '---- BEGIN SSH2 PUBLIC KEY ----\nComment: "me"\nAAAAC3Nz\n---- END SSH2',
    "pem.pub": "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEA\n-----END PUBLIC KEY-----\n",
    "id-cert.pub": "ssh-ed25519-cert-v01@openssh.com AAAAIHNzaC1l me\n",
    "options.pub": f'command="/bin/true" {KEY}\n',
    "pgp.pub": "-----BEGIN PGP PUBLIC KEY BLOCK-----\n",
    "notes.pub": "# ssh-ed25519 AAAA\n\nmy keys\n",
}


@pytest.fixture
def ssh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give the .ssh of a home, which is the home of whoever runs this."""
    entry = pwd.getpwuid(os.getuid())
    home = pwd.struct_passwd((*entry[:5], str(tmp_path), entry.pw_shell))
    monkeypatch.delenv("SUDO_USER", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", lambda _uid: home)
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh/id.pub").write_text(f"\n{KEY}\n{KEY} 2 \n")
    return tmp_path / ".ssh"


def test_only_keys_of_a_public_key_file_are_let_in(ssh: Path) -> None:
    """Other formats, certificates, lines with options and remarks are passed over."""
    for name, text in OTHERS.items():
        (ssh / name).write_text(text)
    (ssh / "binary.pub").write_bytes(bytes(range(256)))
    assert access.user_keys() == [KEY, f"{KEY} 2"]


def test_what_is_no_readable_file_stops_nothing(ssh: Path) -> None:
    """A directory, a pipe that nobody writes to, links, a file whose reading fails."""
    (ssh / "x.pub").mkdir()
    os.mkfifo(ssh / "pipe.pub")
    (ssh / "gone.pub").symlink_to("nowhere")
    (ssh / "loop.pub").symlink_to("loop.pub")
    (ssh / "fails.pub").symlink_to("/proc/self/mem")
    (ssh / "zero.pub").symlink_to("/dev/zero")
    assert access.user_keys() == [KEY, f"{KEY} 2"]


@pytest.mark.needs("setpriv")
def test_a_home_that_may_not_be_entered_has_no_keys(tmp_path: Path) -> None:
    """As root's on a mount where root is nobody; here it is root without its capabilities."""
    (tmp_path / "home/.ssh").mkdir(parents=True)
    (tmp_path / "home/.ssh/id.pub").write_text(KEY)
    ask = (
        "import os, pwd; os.environ.pop('SUDO_USER', None); import _qemulab_vm_access as access; "
        f"entry = pwd.struct_passwd(('u', 'x', 0, 0, '', {str(tmp_path / 'home')!r}, '')); "
        "pwd.getpwuid = lambda uid: entry; print(access.user_keys())"
    )
    path = os.pathsep.join(sys.path)
    drop = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"] if os.geteuid() == 0 else []
    if drop:
        os.chown(tmp_path / "home", 65534, 65534)
    for mode, expected in ((0o755, [KEY]), (0o700 if drop else 0, [])):
        os.chmod(tmp_path / "home", mode)
        done = subprocess.run(
            [*drop, sys.executable, "-c", ask],
            env={**os.environ, "PYTHONPATH": path},
            capture_output=True,
            text=True,
        )
        assert (done.stdout.strip(), done.stderr) == (str(expected), "")
