"""Pieces of a long computation: each result is kept, and computed anew only when what it comes from
has changed.

A piece is named, and says which source files its result depends on besides the corpus.
"""

import hashlib
import pathlib
import pickle
import sys
import time
from dataclasses import dataclass, field
from typing import Callable

ROOT = pathlib.Path(__file__).resolve().parents[2]
SHARED = [
    "models/features.c", "models/features.def", "models/window.c", "models/judge.c",
    "models/detector.c", "models/verdict.c", "models/forest.c", "models/corpus/labels.py",
    "models/corpus/archive.py", "models/training/data.py", "models/training/evaluate.py",
    "models/training/fit.py", "models/training/views.py",
]  # fmt: skip
"""What every piece depends on."""


@dataclass
class Piece:
    """One result."""

    name: str
    compute: Callable
    """Without arguments; what it returns is pickled."""
    seconds: float
    """What it takes on one core for 6,000 runs, about: for the time left."""
    files: list = field(default_factory=list)
    """Further sources, from the root of the repository."""


class Store:
    """A folder of results."""

    def __init__(self, folder: pathlib.Path, identity: str):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.identity = identity
        self.sources = {}
        self.start = time.time()

    def path(self, piece: Piece) -> pathlib.Path:
        """Where a result is kept: the name says what it was made from."""
        h = hashlib.sha256(self.identity.encode())
        for name in SHARED + piece.files:
            # Read once: a source that is edited meanwhile is not the one that runs.
            if name not in self.sources:
                self.sources[name] = (ROOT / name).read_bytes()
            h.update(self.sources[name])
        return self.folder / f"{piece.name.replace('/', '.')}.{h.hexdigest()[:12]}.pickle"

    def has(self, piece: Piece) -> bool:
        """Whether the result is there."""
        return self.path(piece).exists()

    def get(self, piece: Piece):
        """The result, computed if need be."""
        path = self.path(piece)
        if not path.exists():
            value = piece.compute()
            temporary = path.with_suffix(".part")
            temporary.write_bytes(pickle.dumps(value, protocol=4))
            temporary.replace(path)
            for old in self.folder.glob(f"{piece.name.replace('/', '.')}.*.pickle"):
                if old != path:
                    old.unlink()
        return pickle.loads(path.read_bytes())

    def run(self, pieces: list) -> None:
        """Compute what is missing, one after the other, and say how long the rest will take."""
        missing = [p for p in pieces if not self.has(p)]
        self.say(f"{len(pieces) - len(missing)} of {len(pieces)} pieces are there")
        planned = sum(p.seconds for p in missing)
        done, spent, began = 0.0, 0.0, time.time()
        for i, piece in enumerate(missing):
            left = planned * (spent / done if done else 1.0) * (1 - done / max(planned, 1e-9))
            self.say(f"{piece.name} ({i + 1} of {len(missing)}), about {left / 60:.0f} min left")
            self.get(piece)
            done, spent = done + piece.seconds, time.time() - began

    def say(self, text: str) -> None:
        """Progress, to stderr."""
        print(f"[{time.time() - self.start:5.0f} s] {text}", file=sys.stderr, flush=True)
