"""The progress bar of a fit."""

from contextlib import contextmanager

from ._objective import kkt_violation


@contextmanager
def progress_bar(name, X, *, shown):
    """A function to call after every iteration, or None where nothing is to be shown.

    The KKT violation is shown where X is at hand.
    """
    if not shown:
        yield None
        return
    from tqdm.auto import tqdm

    with tqdm(desc=name, unit="it") as bar:

        def callback(U, V, F, alpha):
            shown = {"objective": f"{F:.6g}"}
            if X is not None:
                shown["kkt"] = f"{kkt_violation(X, V, U, alpha):.1e}"
            bar.set_postfix(shown, refresh=False)
            bar.update()

        yield callback
