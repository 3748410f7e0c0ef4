"""What each measurement is given: where it may write, how thorough it is to be, and a progress bar."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from tqdm import tqdm

from .measure import Label, Outcome, interleaved

T = TypeVar("T")

# tqdm's watchdog thread would wake up in the middle of what is measured.
tqdm.monitor_interval = 0


@dataclass
class Bench:
    """One run of one measurement. ``missing`` names what could not run, and why."""

    name: str
    folder: Path
    is_quick: bool
    missing: dict[str, str] = field(default_factory=dict)

    def choose(self, quick: T, full: T) -> T:
        return quick if self.is_quick else full

    def inside(self, name: object) -> Path:
        """A folder in the folder."""
        folder = self.folder / str(name)
        folder.mkdir(exist_ok=True)
        return folder

    def opened(self, makers: Mapping[str, Callable[[Path], T]]) -> dict[str, T]:
        """What can be opened here, each in a folder of its own; of the others it is noted what they lack."""
        found = {}
        for name, make in makers.items():
            try:
                found[name] = make(self.inside(name))
            except ImportError as error:
                self.missing[name] = str(error)
        return found

    def interleaved(self, subjects: Mapping[Label, Callable[[], float]], rounds: int) -> dict[Label, Outcome]:
        with self.progress("measuring", total=len(subjects) * rounds) as bar:
            return interleaved(subjects, rounds, bar.update)

    def progress(self, doing: str, items: Iterable[Any] | None = None, total: int | None = None) -> Any:
        """The items, with a progress bar; none where there is no terminal."""
        layout = f"{f'{self.name}, {doing}':32} {{percentage:3.0f}}% |{{bar}}| {{elapsed}}"
        return tqdm(items, total=total, bar_format=layout, disable=None)
