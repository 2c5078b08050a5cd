"""A small Dask cluster: two processes of one thread each."""

import pytest


@pytest.fixture(scope="module")
def cluster():
    """A `LocalCluster`; its address is `cluster.scheduler_address`."""
    from distributed import LocalCluster

    # The port of the dashboard: any, because tests that run at the same time have clusters, too.
    with LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address="127.0.0.1:0"
    ) as cluster:
        cluster.wait_for_workers(2, timeout=60)
        yield cluster


@pytest.fixture(scope="module")
def client(cluster):
    """A `Client` of the cluster."""
    from distributed import Client

    with Client(cluster, set_as_default=False) as client:
        yield client
