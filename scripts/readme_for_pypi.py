#!/usr/bin/env python3
"""Prints the README with absolute links, since PyPI shows it without the files that it links to."""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]


def with_absolute_links(readme: str, repository: str, ref: str) -> str:
    """The README with each relative link led to the repository.

    :param readme: in Markdown
    :param repository: its address on GitHub
    :param ref: the branch or tag that the links lead to
    """
    raw = repository.replace("https://github.com/", "https://raw.githubusercontent.com/")

    def absolute(found: re.Match[str]) -> str:
        is_picture, text, target = found.groups()
        if re.match(r"[a-z]+:|#", target):
            return found[0]
        address = f"{raw}/{ref}" if is_picture else f"{repository}/blob/{ref}"
        return f"{is_picture}[{text}]({address}/{target})"

    return re.sub(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)", absolute, readme)


if __name__ == "__main__":
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    readme = (ROOT / "README.md").read_text()
    sys.stdout.write(with_absolute_links(readme, project["urls"]["Repository"], f"v{project['version']}"))
