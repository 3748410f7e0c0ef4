"""The search for a text in the names of owners.

It searches what follows the prefix of a name: a user id as the app knows it, although the name contains it quoted. A
whole name finds itself. The case of ASCII letters is ignored, and there are no wildcards. Each name contains the empty
text.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple
from urllib.parse import quote

from ..owner import MAX_USER_ID_LENGTH

# "40" is not in "ann%40example.com". These two characters, which are the prefix for what a name begins with, also keep
# the prefix itself from being searched. Python's re, PostgreSQL and SQLite's GLOB read them alike.
NOT_IN_AN_ESCAPE = "[^%][^%]"
_MAX_LENGTH = MAX_USER_ID_LENGTH * len(quote("\U0010ffff")) + 2  # No name is longer.


class SearchedText(NamedTuple):
    """A text as it is in names, in lower case. Quoted, it is ASCII without wildcards of GLOB.

    :ivar name: if it is a whole name
    :ivar part: if it is part of a user id
    """

    name: str
    part: str

    @classmethod
    def of(cls, text: str) -> SearchedText:
        """What is searched for a text; of one that is longer than all names, as much as keeps it so."""
        name, part = (quote(text, safe=safe, errors="surrogatepass").lower() for safe in ("%", ""))
        return cls(name[: _MAX_LENGTH + 1], part[: _MAX_LENGTH + 1])


def name_pattern(text: str) -> str:
    """A regular expression, for Python and PostgreSQL, that ignores cases and finds the names in which a text is."""
    if not text:
        return ""
    name, part = map(re.escape, SearchedText.of(text))
    return f"^{name}$|{NOT_IN_AN_ESCAPE}{part}"


def name_filter(prefix: str, text: str) -> Callable[[str], bool]:
    """Whether a name begins with the prefix, and the text is found in it."""
    search = re.compile(name_pattern(text), re.ASCII | re.IGNORECASE).search
    return lambda name: name.startswith(prefix) and search(name) is not None
