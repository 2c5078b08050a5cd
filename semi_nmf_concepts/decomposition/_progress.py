"""The progress bar of a fit."""

from contextlib import contextmanager

from ._objective import kkt_violation


@contextmanager
def progress_bar(name, X, *, shown):
    """A function to call after every iteration, or None where nothing is to be shown."""
    if not shown:
        yield None
        return
    from tqdm.auto import tqdm

    with tqdm(desc=name, unit="it") as bar:

        def callback(U, V, F, alpha):
            violation = kkt_violation(X, V, U, alpha)
            bar.set_postfix(objective=f"{F:.6g}", kkt=f"{violation:.1e}", refresh=False)
            bar.update()

        yield callback
