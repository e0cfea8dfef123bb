"""Numbers and names as people read them."""

from __future__ import annotations

__all__ = ["printable", "short", "split_names"]


def short(number: int) -> str:
    """``4231976`` → ``4.23 M``, ``864`` → ``0.9 k``."""
    return f"{number / 1e6:,.2f} M" if number >= 100_000 else f"{number / 1e3:.1f} k"


def split_names(text: str) -> list[str]:
    """``timm, torchvision`` → both; of empty text none."""
    return [part.strip() for part in text.split(",") if part.strip()]


def printable(text: str) -> str:
    """`text` on one line, with what would steer a terminal escaped: a file may have any name."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape", "backslashreplace").decode()
        for character in text
    )
