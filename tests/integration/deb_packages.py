"""
Debian's packages, unpacked aside: what is installed could start a service, or stay.
"""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path


def unpack(package: str, target: Path) -> None:
    """
    Unpack a package below a directory.

    Where apt does not know it, or no longer where it lies, the lists are asked for first.
    """
    with tempfile.TemporaryDirectory() as directory:
        fetch = ["apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", package]
        for command in (fetch, ["apt-get", "-q", "update"], fetch):
            subprocess.run(command, cwd=directory, capture_output=True, check=False)
            found = list(Path(directory).glob("*.deb"))
            if found:
                break
        assert found, f"apt-get could not download {package}"
        subprocess.run(["dpkg-deb", "--extract", *found, target], check=True)
