"""A power loss leaves a consistent database and values that are whole or absent; with FULL, all that was acknowledged.

It is a model: see power_loss.py. What a real load has asked the file system for is cut off at any point.

Promises: docs/reliability.md, "Acknowledged means stored" and "Power loss". That applications get the order of their
syncs wrong where no test loses power: https://www.usenix.org/conference/osdi14/technical-sessions/presentation/pillai.
"""

from __future__ import annotations

import random
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import power_load
import pytest
import soak
import sqlite_file
from clocks import HandClock
from power_load import State
from power_loss import LEFT_OUT, Call, Chance, Disk, record

from flask_dash_store.codec import BUFFER_THRESHOLD
from flask_dash_store.expiry import ExpiryPolicy
from flask_dash_store.owner import Owner
from flask_dash_store.storage.base import ENDED
from flask_dash_store.storage.sqlite.maintenance import ORPHAN_AGE

LOSSES = soak.repeats(ci=100, soak=300)
SEED = 1
LARGE = bytes(2 * BUFFER_THRESHOLD)


class Recording(NamedTuple):
    """What a load has asked the file system for, below a folder."""

    synchronous: str
    root: Path
    calls: list[Call]


@pytest.fixture(scope="module", params=["NORMAL", "FULL"])
def recording(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Recording:
    folder = tmp_path_factory.mktemp("recording")
    root = folder / "root"
    root.mkdir()
    calls = record([sys.executable, power_load.__file__, str(root), request.param, str(SEED)], folder / "trace")
    assert sum(map(is_acknowledgement, calls)) == power_load.STEPS
    return Recording(request.param, root, calls)


def is_acknowledgement(call: Call) -> bool:
    return call.name == "write" and call.texts == [b"acknowledged\n"]


class Loss(NamedTuple):
    number: int
    acknowledged: int
    left: Path


def losses(recording: Recording, folder: Path) -> Iterator[Loss]:
    """What power losses leave, and how many steps had been acknowledged before each."""
    chance, disk, acknowledged, taken = random.Random(SEED), Disk(recording.root), 0, 0
    changes = [
        position for position, call in enumerate(recording.calls) if call.name not in ("openat", "lseek", "close")
    ]
    for number, cut in enumerate(sorted(chance.choices(changes, k=LOSSES))):
        for call in recording.calls[taken:cut]:
            disk.take(call)
            acknowledged += is_acknowledgement(call)
        taken = cut
        left = folder / f"after {number}"
        disk.leave(left, Chance(number))
        yield Loss(number, acknowledged, left)


class Survivor:
    """The package on what is found once the machine has started again."""

    def __init__(self, folder: Path, synchronous: str) -> None:
        self.clock = HandClock(time.time())
        self._database = folder / "store.sqlite"
        self._buffers = folder / "store.sqlite.buffers"
        self._middleware = power_load.install(folder, synchronous=synchronous, clock=self.clock)
        self._storage = self._middleware.opened().storage

    def state(self) -> State:
        found: dict[str, dict[str, bytes]] = {"s": {}, "u": {}}
        ended, is_renewed = 0, False
        access, codec = ExpiryPolicy(None, self.clock).access(), self._middleware.opened().codec
        for name in self._storage.all_owners():
            dump = self._storage.dump(name)
            if dump.session == ENDED:
                ended += 1
                continue
            is_renewed |= dump.renewed_at is not None
            for key, stored in self._storage.items(Owner(name, dump.session), access):
                found[name[0]][key] = codec.decode(name, key, stored)
        return found["s"], found["u"], (ended, is_renewed)

    def check(self) -> None:
        """It has no damage, takes what is new, and leaves nothing of what was lost."""
        assert list(self._storage.problems()) == []
        store = self._middleware.for_user("new")
        store["key"] = LARGE
        assert store["key"] == LARGE
        self.clock.step(2 * ORPHAN_AGE)
        self._middleware.purge()
        assert {file.name for file in self._buffers.iterdir()} == sqlite_file.named_files(self._database)
        self._storage.close()


def is_left_of(found: State, expected: State) -> bool:
    """Whether it is what is expected, or all of it but some large values."""
    return found[2] == expected[2] and all(
        store.items() <= whole.items() and all(len(whole[key]) > BUFFER_THRESHOLD for key in whole.keys() - store)
        for store, whole in zip(found[:2], expected[:2], strict=True)
    )


def test_after_a_power_loss_all_is_consistent_and_with_full_nothing_acknowledged_is_lost(
    recording: Recording, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flask_dash_store.storage.sqlite.storage.boot_id", lambda: "after the power loss")
    states = list(power_load.states(SEED))
    lost = 0
    for loss in losses(recording, tmp_path):
        with blaming(loss):
            survivor = Survivor(loss.left, recording.synchronous)
            found = survivor.state()
            now, next_ = states[loss.acknowledged], states[min(loss.acknowledged + 1, power_load.STEPS)]
            if recording.synchronous == "FULL":
                assert found in (now, next_)
            else:
                assert any(is_left_of(found, state) for state in states[: loss.acknowledged + 2])
                lost += found not in (now, next_)
            survivor.check()
        shutil.rmtree(loss.left)
    assert (lost > 0) == (recording.synchronous == "NORMAL"), "A model in which nothing is ever lost proves nothing."


@contextmanager
def blaming(loss: Loss) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        error.add_note(f"after {loss}")
        raise


class NothingIsLost(Chance):
    def keeps_data(self) -> bool:
        return True

    keeps_name = keeps_data

    def sectors(self, data: bytes) -> bytes:
        return data


def test_the_model_of_a_disk_leaves_what_the_real_one_has_when_nothing_is_lost(
    recording: Recording, tmp_path: Path
) -> None:
    disk = Disk(recording.root)
    for call in recording.calls:
        disk.take(call)
    disk.leave(tmp_path / "after", NothingIsLost(0))
    assert contents(tmp_path / "after") == contents(recording.root)


def contents(folder: Path) -> dict[Path, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file() and not path.name.endswith(LEFT_OUT)]
    return {path.relative_to(folder): path.read_bytes() for path in files}
