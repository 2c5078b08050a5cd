"""What the app remembers of one visitor: a few answers and what was computed for them."""

import shutil
import tempfile
import weakref
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path

MAX_ANSWERS = 4  # of a visitor; a trace of a large model takes about a hundred megabytes
MAX_RESULTS = 12  # relevancy, causal graphs ... of them


@dataclass(eq=False)
class Session:
    """Answers by their number, oldest first, and results by what they depend on."""

    answers: OrderedDict = field(default_factory=OrderedDict)
    results: OrderedDict = field(default_factory=OrderedDict)
    compared: list = field(default_factory=list)  # two traces, side by side
    messages: list = field(default_factory=list)  # of the conversation
    patches: dict = field(default_factory=dict)  # number of an answer -> chosen image tokens
    strip: list = field(default_factory=list)  # heads in the order in which they are shown
    corner: tuple | None = None  # of a crop that is half drawn
    n_asked: int = 0
    _folder: Path | None = None

    def add(self, trace):
        """Keep an answer and return its number; the oldest goes where there are too many."""
        self.n_asked += 1
        self.answers[self.n_asked] = trace
        while len(self.answers) > MAX_ANSWERS:
            self._forget(next(iter(self.answers)))
        return self.n_asked

    def _forget(self, number):
        self.answers.pop(number)
        self.patches.pop(number, None)
        for key in [key for key in self.results if key[0] == number]:
            self.results.pop(key, None)
        shutil.rmtree(self.folder_of(number), ignore_errors=True)

    def trace(self, number):
        """The answer of a number.

        Raises ValueError where nothing was asked yet, or the answer is no longer kept.
        """
        if not self.answers:
            raise ValueError("There is no answer to look into yet: ask something first.")
        if number not in self.answers:
            raise ValueError(f"Answer {number} is no longer kept; choose one of the latest.")
        return self.answers[number]

    def once(self, number, what, compute):
        """The result `what` (hashable) of an answer, computed at its first use."""
        key = (number, what)
        # Taken out and put back as the latest; another handler of the visitor may run meanwhile.
        value = self.results.pop(key, None)
        self.results[key] = value = compute() if value is None else value
        while len(self.results) > MAX_RESULTS:
            self.results.popitem(last=False)
        return value

    def known(self, number, what):
        """That result if it was computed already, or None."""
        return self.results.get((number, what))

    def choices(self):
        """(label, number) of the answers, latest first."""
        return [(f"{n}: {_short(t.answer)}", n) for n, t in reversed(self.answers.items())]

    @property
    def folder(self):
        """A folder for the visitor's files, which goes when the session does."""
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="semi-nmf-concepts-app-"))
            weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        return self._folder

    def folder_of(self, number):
        """The folder for the files of one answer (made if missing)."""
        folder = self.folder / f"answer-{number}"
        folder.mkdir(exist_ok=True)
        return folder


def _short(text, n=60):
    return text if len(text) <= n else text[: n - 1].rstrip() + "…"


def chosen(word):
    """The index of a word that has to be chosen."""
    if word is None:
        raise ValueError("Choose a word of the answer.")
    return int(word)
