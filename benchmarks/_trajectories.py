"""Who reached what, when: dictionaries of a running method, with the seconds on its own clock.

Seconds are those of the processor: with one thread they are the wall clock's of an idle machine,
and other programs on the machine disturb them least.
"""

import time
from dataclasses import dataclass, field

import numpy as np

from benchmarks._scoring import Scorer

#: A peer has converged when F* improves by less than this share while its time doubles...
FLAT = 1e-4
#: ...but it gets this many seconds in any case.
LEAST_SECONDS = 1.0
#: Laps are scored where their times differ by this factor (and between, to find a target).
_SCORED_SPACING = 1.35


@dataclass
class Problem:
    """What every method gets: the data, the number of atoms, the penalty and the seed."""

    X: np.ndarray
    n_components: int
    alpha: float
    seed: int
    scorer: Scorer = field(init=False)

    def __post_init__(self):
        self.scorer = Scorer(self.X, self.alpha)

    def starting_atoms(self):
        """Distinct samples drawn by the seed, of unit norm; (n_components, n_features)."""
        rng = np.random.default_rng(self.seed)
        atoms = self.X[rng.choice(len(self.X), self.n_components, replace=False)]
        return atoms / np.linalg.norm(atoms, axis=1, keepdims=True)


class Enough(Exception):
    """Ends a method from within its own callback."""


@dataclass
class Lap:
    number: int  # which call of the clock, or how many iterations of a run of its own
    seconds: float
    U: np.ndarray


class Trajectory:
    """The laps of one method on one problem, scored as needed."""

    def __init__(self, problem):
        self.problem = problem
        self.laps = []
        self.scores = {}  # index of the lap -> F*
        self.end = "finished"  # or "converged", "censored", "arrived" (at the goal)
        self.again = None  # seconds to a lap (by number) in a fresh run, where runs are repeatable

    def add(self, number, seconds, U):
        self.laps.append(Lap(number, seconds, U))

    def score(self, index):
        index %= len(self.laps)
        if index not in self.scores:
            self.scores[index] = self.problem.scorer(self.laps[index].U)
        return self.scores[index]

    def score_all(self):
        """Score the first and last lap and, between, one per factor `_SCORED_SPACING` of time."""
        self.score(-1)
        due = 0.0
        for index, lap in enumerate(self.laps):
            if lap.seconds >= due:
                self.score(index)
                due = _SCORED_SPACING * lap.seconds

    @property
    def seconds(self):
        return self.laps[-1].seconds

    @property
    def best(self):
        """Lowest F* among the scored laps."""
        return min(self.scores.values())

    def first_reaching(self, target):
        """Index of the first lap with F* <= target, or None."""
        scored = sorted(self.scores)
        high = next((index for index in scored if self.scores[index] <= target), None)
        if high is None:
            return None
        low = max((index for index in scored if index < high), default=-1)
        while high - low > 1:
            middle = (low + high) // 2
            if self.score(middle) <= target:
                high = middle
            else:
                low = middle
        return high

    def seconds_to(self, target):
        """(seconds until F* <= target, whether it got there); else the seconds it was given.

        The median of several runs where the method can repeat them.
        """
        index = self.first_reaching(target)
        if index is None:
            return self.seconds, False
        lap = self.laps[index]
        times = [lap.seconds]
        if self.again is not None:
            repeats = 5 if lap.seconds < 1.0 else 3 if lap.seconds < 10.0 else 1
            times += [self.again(lap.number) for _ in range(repeats - 1)]
        return float(np.median(times)), True

    def as_json(self):
        scored = sorted(self.scores, key=lambda index: self.laps[index].seconds)
        return {
            "seconds": [round(self.laps[index].seconds, 5) for index in scored],
            "F": [self.scores[index] for index in scored],
            "end": self.end,
        }


class Clock:
    """Times one method; what it does in `lap` itself, scoring included, is off the clock.

    Parameters
    ----------
    problem : Problem
    limit : float
        Seconds after which the method is stopped (`Enough`) and counts as censored.
    until_flat : bool
        Whether to stop it once it has converged (`FLAT`).
    goal : float
        Whether to stop it once F* is down to this value.
    spacing : float
        Laps are kept where their times differ by this factor.
    """

    def __init__(self, problem, *, limit=np.inf, until_flat=True, goal=-np.inf, spacing=1.05):
        self.trajectory = Trajectory(problem)
        self.limit, self.until_flat, self.goal, self.spacing = limit, until_flat, goal, spacing
        self._number = 0
        self._off = 0.0
        self._kept_next = self._checked_next = self._scored_next = 0.0
        self._F_before = np.inf

    def start(self):
        self._started = time.process_time()

    def lap(self, get_dictionary):
        """Note where the method is; `get_dictionary` returns (a reference to) its dictionary."""
        called = time.process_time()
        try:
            self._note(called - self._started - self._off, get_dictionary)
        finally:
            self._off += time.process_time() - called

    def finish(self, U):
        """Note the last dictionary, however soon after the lap before."""
        self._kept_next = 0.0
        self.until_flat, self.limit, self.goal = False, np.inf, -np.inf
        self.lap(lambda: U)

    def _note(self, seconds, get_dictionary):
        self._number += 1
        if seconds < self._kept_next and seconds <= self.limit:
            return
        self._kept_next = self.spacing * seconds
        trajectory = self.trajectory
        trajectory.add(self._number, seconds, np.array(get_dictionary()))
        if self.goal > -np.inf and seconds >= self._scored_next:
            self._scored_next = _SCORED_SPACING * seconds
            if trajectory.score(-1) <= self.goal:
                trajectory.end = "arrived"
                raise Enough
        if self.until_flat and seconds >= self._checked_next:
            self._checked_next = 2.0 * seconds
            if is_flat(seconds, self._F_before, trajectory.score(-1)):
                trajectory.end = "converged"
                raise Enough
            self._F_before = trajectory.score(-1)
        if seconds > self.limit:
            trajectory.end = "censored"
            raise Enough


def is_flat(seconds, F_before, F):
    """Whether F* has hardly improved since half the time."""
    return seconds >= LEAST_SECONDS and F_before - F <= FLAT * abs(F)
