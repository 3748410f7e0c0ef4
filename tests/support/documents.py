"""What a document holds under its headings: text, code to run, and tables."""

from __future__ import annotations

import re
from pathlib import Path
from textwrap import dedent

ROOT = Path(__file__).parents[2]
README, PAGES = "README.md", [f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md"))]

# Code that goes on from another block of its page says so in a comment that no reader of the page sees.
FENCE = re.compile(
    r"^(?:<!-- after: (?P<after>.+) -->\n)? *```\{?(?P<language>[\w-]*)\}?\n(?P<code>.*?)^ *```$",
    re.DOTALL | re.MULTILINE,
)


def read(document: str) -> str:
    return (ROOT / document).read_text()


def sections(document: str) -> dict[str, str]:
    """What stands under each heading, as far as the next one. Under headings of one name it is put together."""
    found: dict[str, str] = {}
    is_code, heading = False, ""
    for line in read(document).splitlines(keepends=True):
        is_code ^= line.lstrip().startswith("```")
        if not is_code and (match := re.match(r"#+ (.+)", line)):
            heading = match[1]
        else:
            found[heading] = found.get(heading, "") + line
    return found


def blocks(document: str, language: str) -> dict[str, list[str]]:
    """The code in a language, by heading."""
    found = {
        heading: [dedent(match["code"]) for match in FENCE.finditer(body) if match["language"] == language]
        for heading, body in sections(document).items()
    }
    return {heading: codes for heading, codes in found.items() if codes}


def languages(document: str) -> set[str]:
    """The languages of all code of a document; an empty one for code that names none."""
    return {match["language"] for match in FENCE.finditer(read(document))}


def program(document: str, heading: str) -> str:
    """The Python code under a heading, or what a diff there makes of it, with the code that it goes on from."""
    diffs = [sides(diff)[1] for diff in blocks(document, "diff").get(heading, [])]
    code = "\n".join([*blocks(document, "python").get(heading, []), *diffs])
    before = [match["after"] for match in FENCE.finditer(sections(document)[heading]) if match["after"]]
    return "\n\n\n".join([*(program(document, each) for each in before), code])


def sides(diff: str) -> tuple[str, str]:
    """What a diff removes and keeps, and what it keeps and adds."""
    lines = [(line[:1], line[1:]) for line in diff.splitlines()]
    before, after = ("\n".join(text for mark, text in lines if mark in {"", " ", each}) for each in ("-", "+"))
    return before, after


def table(document: str, heading: str) -> list[list[str]]:
    """The rows of the table under a heading."""
    lines = [line for line in sections(document)[heading].splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def code_spans(text: str) -> list[str]:
    return re.findall(r"`([^`]+)`", text)
