"""What is computed with, for data of any kind."""

from dataclasses import dataclass

from ._arrays import choose_place, kind_of, move
from ._solvers import get_backend


@dataclass
class Machine:
    """The parameters of an estimator that say what to compute with; light, so that it can travel.

    Attributes
    ----------
    backend : {"auto", "numba", "torch", "cupy"}
    device : str or None
    n_jobs : int or None
    """

    backend: str = "auto"
    device: str | None = None
    n_jobs: int | None = None

    def at(self, kind):
        """For data of this kind: the kind of array to compute with, and the `Backend`."""
        place = choose_place(kind, self.backend, self.device)
        return place.kind, get_backend(place.backend, n_jobs=self.n_jobs, xp=place.kind.xp)

    def open(self, X):
        """An array where it is computed with, and the `Backend`."""
        kind, backend = self.at(kind_of(X))
        return move(X, kind), backend
