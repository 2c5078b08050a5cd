"""Settings of ours in `dask.config`."""

#: How long to wait for the scheduler, or for a first worker.
WAIT_SETTING, _WAIT = "semi_nmf_concepts.wait-for-workers", "30s"


def patience():
    """Seconds to wait for the scheduler, or for a first worker."""
    import dask
    from dask.utils import parse_timedelta

    return parse_timedelta(dask.config.get(WAIT_SETTING, _WAIT))
