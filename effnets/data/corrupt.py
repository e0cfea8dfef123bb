"""Pictures that cannot be read: how many may be left out, and what is said of them. Free of torch."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping

from effnets.errors import DataError

# A handful of broken pictures is no reason to stop, however small the data set.
_ALWAYS_ALLOWED = 3
_SHOWN = 5


def allowed_corrupt(pictures: int, limit: float = 0.05) -> int:
    """How many of so many pictures may be broken: the part `limit` of them, or 3 if that is more."""
    return max(_ALWAYS_ALLOWED, int(limit * pictures))


def reasons(messages: Iterable[str]) -> str:
    """The first of the messages, each on a line of its own."""
    return "".join(f"\n  {message}" for message in list(messages)[:_SHOWN])


class CorruptImages:
    """The pictures of a set that turned out broken while it was read, which are left out of their batches.

    Args:
        pictures: how many the set has.
        limit: how many of them may be broken.

    Attributes:
        messages: what was wrong with each, by index.
    """

    def __init__(self, pictures: int, limit: int) -> None:
        self.pictures, self.limit = pictures, limit
        self.messages: dict[int, str] = {}

    def note(self, broken: Mapping[int, str]) -> None:
        """Remember the broken pictures of a batch, with a warning for each that is new.

        Raises:
            DataError: there are more than may be, or no others are left; the message names them.
        """
        for index, message in broken.items():
            if index not in self.messages:
                warnings.warn(f"left out of its batch: {message}", stacklevel=4)
        self.messages.update(broken)
        if len(self.messages) > self.limit or len(self.messages) == self.pictures:
            raise DataError(
                f"{len(self.messages)} of {self.pictures} pictures cannot be read, and {self.limit} may be "
                f"left out; mend or remove them:{reasons(self.messages.values())}"
            )
