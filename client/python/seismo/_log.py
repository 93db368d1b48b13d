"""Reporting that never spams a training log: every kind of trouble is told once."""

from __future__ import annotations

import logging

logger = logging.getLogger("seismo")

KINDS = 64  # of trouble that are told and counted one by one


def shown(text: str) -> str:
    """The text with control characters, marks of direction and what cannot be seen made visible.

    Parts of it may come from a daemon or from names that somebody else has chosen.
    """
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text
    )


class Once:
    """Logs the first message of each kind and only counts the rest.

    Kinds may bear names, of which a program or a daemon may have any number: beyond KINDS all are
    one.
    """

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}

    @property
    def total(self) -> int:
        """Troubles noted, of all kinds."""
        return sum(self.counts.values())

    def __call__(
        self,
        kind: str,
        message: str,
        *args: object,
        exc_info: bool = False,
        level: int = logging.WARNING,
    ) -> int:
        """Count one trouble of `kind`, log it when it is the first, return the count.

        Logging itself may fail (a handler that raises, a closed stream at exit); a training loop
        must not notice that either.
        """
        if kind not in self.counts and len(self.counts) >= KINDS:
            kind = "others"
            message += " (from here on, what is of yet another kind is only counted)"
        count = self.counts[kind] = self.counts.get(kind, 0) + 1
        if count == 1:
            try:
                logger.log(level, "%s", shown(message % args), exc_info=exc_info)
            except Exception:  # noqa: BLE001
                self.counts["logging"] = self.counts.get("logging", 0) + 1
        return count
