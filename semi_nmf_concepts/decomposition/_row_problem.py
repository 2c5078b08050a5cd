"""The problem that a descent works on where the rows are visited block by block.

The dictionary and its update are here, in NumPy; the codes are where the rows are, if anywhere.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ._arrays import NUMPY
from ._machine import Machine
from ._preprocessing import AffineMap
from ._row_passes import RowPasses
from ._row_work import CodePass, RemovalCosts
from ._solvers import LOOSE_CODES, AnyProblem, get_backend, residual_rows


@dataclass
class RowProblem(AnyProblem):
    """Rows that are visited block by block, a penalty, and what computes.

    Codes are None throughout: each pass finds them anew, starting from what is left of the last
    one, and any start leads to the same codes.
    """

    passes: RowPasses
    machine: Machine
    map_: AffineMap
    alpha: float
    squared_norm: float
    seen: dict = field(default_factory=dict)  # shared by problems of another alpha
    xp: Any = NUMPY.xp

    def __post_init__(self):
        self.backend = get_backend("numba", n_jobs=self.machine.n_jobs)

    @property
    def is_single(self):
        return self.passes.dtype == np.float32

    def work(self, kind, *values, **options):
        """Work of some kind on the rows as this problem sees them."""
        return kind(self.machine, self.map_, *values, **options)

    def code_pass(self, U, V):
        coded = self.passes.reduce(self.work(CodePass, U, self.alpha))
        self.seen["totals"] = coded.totals
        return coded.statistics

    @property
    def totals(self):
        """Total activation of every atom in the last pass, or None."""
        return self.seen.get("totals")

    def removal_costs(self, U, V):
        return self.passes.reduce(self.work(RemovalCosts, U, self.alpha))

    def residual(self, U, V, random_state):
        rows = residual_rows(self.passes.shape[0], random_state)
        rows = np.arange(self.passes.shape[0]) if rows is None else rows
        X = self.map_.to_factorised(self.passes.take(rows))
        V = np.zeros((len(X), len(U)), X.dtype)
        self.backend.encode(X, U, self.alpha, V, **LOOSE_CODES)
        return X - V @ U.astype(X.dtype)

    def empty_codes(self, n_components):
        return None

    def copied(self, V):
        return None

    def cleared(self, V, atoms):
        return None

    def with_more_atoms(self, V, n_atoms):
        return None

    def restricted(self, V, atoms):
        return None
