"""Bring files of the repository's top level into the documentation site, with links that work there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
PAGES = {"weights.md": "weights.md", "CHANGELOG.md": "changelog.md"}
_LINK = re.compile(r"(?<!!)\[([^\]]*)\]\((?!https?://|#|mailto:)([^)\s#]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that are in the repository's top folder."""
    for source, page in PAGES.items():
        text = (ROOT / source).read_text(encoding="utf-8").replace("](docs/", "](")
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:  # noqa: ARG001
    """Point links to top-level pages at the site's copies, and show other files of the repository by their names."""

    def link(match: re.Match[str]) -> str:
        text, target, anchor = match[1], match[2].removeprefix("../"), match[3] or ""
        target = PAGES.get(target, target)
        return f"[{text}]({target}{anchor})" if files.get_file_from_path(target) else text

    return _LINK.sub(link, markdown)
