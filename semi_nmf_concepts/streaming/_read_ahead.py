"""One thing after the other, the next of which may be made while one is in use."""

from concurrent.futures import ThreadPoolExecutor


def in_turn(make):
    """What `make` returns, call after call, until it returns None."""
    while (made := make()) is not None:
        yield made


def one_ahead(make):
    """The same, each made in a thread while the one before it is in use.

    An error of `make` is raised where its result would have come. When the generator is closed,
    the thread finishes what it is at, and ends.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="semi_nmf_concepts-reader") as thread:
        ahead = thread.submit(make)
        while (made := ahead.result()) is not None:
            ahead = thread.submit(make)
            yield made
