"""Rows of several sources, one below the other."""

import contextlib

import numpy as np

from ._row_blocks import RowBlocks


class StackedRows(RowBlocks):
    """The rows of the first part, then those of the second, and so on."""

    def __init__(self, parts, name, skipped=None):
        first = parts[0]
        for part in parts:
            if part.shape[1] != first.shape[1]:
                raise ValueError(
                    f"All rows must have as many features: {part.name} has {part.shape[1]}, "
                    f"{first.name} has {first.shape[1]}."
                )
        lengths = [len(part) for part in parts]
        dtype = np.result_type(*(part.dtype for part in parts))
        places = dict.fromkeys(place for part in parts for place in part.places)
        super().__init__((sum(lengths), first.shape[1]), dtype, name, skipped, places)
        self._parts, self._bounds = parts, np.cumsum([0, *lengths])

    @contextlib.contextmanager
    def _pass(self):
        parts, n_left, read_part = iter(self._parts), 0, None

        def read(out):
            nonlocal n_left, read_part
            done = 0
            while done < len(out):
                if not n_left:
                    current.close()
                    part = next(parts)
                    read_part, n_left = current.enter_context(part._pass()), len(part)
                n = read_part(out[done : done + min(n_left, len(out) - done)])
                done, n_left = done + n, n_left - n
            return done

        with contextlib.ExitStack() as current:
            yield read

    def locate(self, row):
        part = int(np.searchsorted(self._bounds, row, side="right")) - 1
        return self._parts[part].locate(row - int(self._bounds[part]))

    def _take(self, indices, out):
        places = np.searchsorted(indices, self._bounds)
        bounds = zip(self._parts, self._bounds, places, places[1:], strict=False)
        for part, first, start, stop in bounds:
            if stop > start:
                part._take(indices[start:stop] - first, out[start:stop])
