"""Refuse phrases that are hard to read, and British spelling, in the texts of effnets: docstrings, comments, messages.

    uv run scripts/check_prose.py [FILE…]

Prints file:line of each, and exits with status 1 if there are any. Code is not checked, nor
what stands in backticks or is a name or key of the same file.
"""

from __future__ import annotations

import re
import sys
import tokenize
from pathlib import Path

ROOT = Path(__file__).parents[1]
PHRASES = (
    "(is|are) told(?! apart)",
    "can(not)? be had",
    r"(?<!there )is no (number|list|name)",
    "no such thing",
    "which is no such",
    "be they",
    "of no use",
    "whoever",
    "whatever executes",
    "bears? with",
    "tells? of itself",
    "judged? by",
    "heeds?",
    "mend(s|ed)?",
    "it is none(?! of)",
    "(where|if) there is none",
    "not any more",
    "anew",
    "thereof",
    "as it were",
    "asked to end",
    "goes on with",
    "was begun with",
    "(that|which|what|it|file|image|kernels|names) lies? (in|at|as|there|elsewhere)",
    # British spelling
    "(re|un|de)?(initial|normal|optim|quant|equal|recogn|organ|general|regular|summar|minim|maxim|synchron)"
    "is(e[drs]?|ers|ing|ations?)",
    r"\w*colour\w*",
    r"grey\w*",
    r"licence\w*",
    r"behaviours?",
    "artefacts?",
    "centre[ds]?",
    r"neighbour\w*",
)
BANNED = re.compile(rf"\b({'|'.join(PHRASES)})\b", re.IGNORECASE)
TEXTS = {tokenize.COMMENT, tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING)}


def find_banned(path: Path) -> list[str]:
    """Return ``file:line: phrase`` for each banned phrase."""
    with path.open("rb") as file:
        tokens = list(tokenize.tokenize(file.readline))
    words = {token.string.strip("\"'") for token in tokens if " " not in token.string}  # names and keys of this file
    found = []
    for token in tokens:
        if token.type not in TEXTS or token.string.strip("\"'") in words:
            continue
        text = re.sub(r"`+[^`\n]*`+|{[^{}\n]*}", "…", token.string)
        for match in BANNED.finditer(text):
            if match[0] not in words:
                line = token.start[0] + text.count("\n", 0, match.start())
                found.append(f"{path.relative_to(ROOT)}:{line}: {match[0]!r}")
    return found


def main() -> None:
    paths = [Path(name).resolve() for name in sys.argv[1:]] or sorted((ROOT / "effnets").rglob("*.py"))
    found = [line for path in paths for line in find_banned(path)]
    print("\n".join(found) or f"{len(paths)} files: plain English")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
