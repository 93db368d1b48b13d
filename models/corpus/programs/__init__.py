"""One training program a file, each in the style of its field.

Every module has `build(seed) -> Task` (models/corpus/task.py) and is found by its file's name:
adding a program is adding a file.
"""

import importlib
import pkgutil


def names() -> list:
    """Names of all programs, sorted."""
    return sorted(m.name for m in pkgutil.iter_modules(__path__))


def build(name: str, seed: int):
    """Build the task `name`; the same seed gives the same bits."""
    return importlib.import_module(f"{__name__}.{name}").build(seed)
