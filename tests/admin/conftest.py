"""An app with visitors and an admin page, in one process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from admin_page import MakeSite, Site
from clocks import HandClock


@pytest.fixture
def make_site(tmp_path: Path, clock: HandClock) -> Iterator[MakeSite]:
    """Makes apps, all on one file."""
    made = []

    def make(**options: Any) -> Site:
        made.append(Site(f"sqlite:///{tmp_path}/store.sqlite", clock, **options))
        return made[-1]

    yield make
    for site in made:
        site.stores.close()


@pytest.fixture
def site(make_site: MakeSite) -> Site:
    return make_site()
