"""The examples' SECRET_KEY is one key for all workers, and its owner's alone."""

from __future__ import annotations

import runpy
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

EXAMPLES = Path(__file__).parents[2] / "examples"

kept_secret_key = runpy.run_path(str(EXAMPLES / "secret_key.py"))["kept_secret_key"]


def test_workers_that_start_at_once_agree_on_a_key_which_is_kept(tmp_path: Path) -> None:
    for attempt in range(20):
        folder = tmp_path / str(attempt)
        together = Barrier(8)

        def start(folder: Path = folder, together: Barrier = together) -> str:
            together.wait(timeout=30)
            return str(kept_secret_key(str(folder)))

        with ThreadPoolExecutor(8) as workers:
            keys = {future.result() for future in [workers.submit(start) for _ in range(8)]}

        assert len(keys) == 1
        assert keys == {kept_secret_key(str(folder))}
        assert len(keys.pop()) >= 64


def test_only_its_owner_may_read_the_key(tmp_path: Path) -> None:
    folder = tmp_path / "instance"
    kept_secret_key(str(folder))
    assert [path.name for path in folder.iterdir()] == ["secret_key"]
    assert (folder / "secret_key").stat().st_mode & 0o777 == 0o600
    assert folder.stat().st_mode & 0o777 == 0o700
