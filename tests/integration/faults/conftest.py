"""
One lab for all faults of a file, on a host with systemd and on one with a supervisord.

Each fault ends the same way: nobody printed a traceback, exactly one process runs each machine, no
disk has changed, and the apply after the one that healed has nothing to do.
"""

from __future__ import annotations

from collections.abc import Iterator

import harness
import pytest
from faultlab import DECLARED
from faultlab import digest
from faultlab import made_whole
from figures import Figures
from labs import Lab


@pytest.fixture(scope="module", params=harness.HOSTS)
def lab(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Give one lab for all faults: each leaves it whole."""
    with harness.HOSTS[request.param](tmp_path_factory.mktemp("faults")) as host:
        lab = Lab(host)
        lab.apply(declared=DECLARED)
        yield lab


@pytest.fixture(autouse=True)
def ends_whole(lab: Lab, figures: Figures) -> Iterator[None]:
    """Hold every fault to what all of them promise."""
    before = digest(lab)
    yield
    made_whole(lab, figures)
    assert digest(lab) == before
