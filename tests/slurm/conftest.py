"""The cluster that the tests of this folder submit to."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from slurm_cluster import Cluster, running_cluster, why_unavailable


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A SLURM of two nodes; skipped where it is not installed."""
    lacking = why_unavailable()
    if lacking is not None:
        pytest.skip(lacking)
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))  # short: sockets lie in it
    try:
        with running_cluster(folder) as running:
            yield running
    finally:
        shutil.rmtree(folder, ignore_errors=True)
