"""In continuous integration a skipped test is a failure, however it was skipped."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

PASSES = "def test(): pass"
SKIPS = {
    "by a mark": "@pytest.mark.skip(reason='a reason')\ndef test(): pass",
    "inside": "def test(): pytest.skip('a reason')",
    "in a fixture": "@pytest.fixture\ndef broken(): pytest.skip('a reason')\ndef test(broken): pass",
    "as a module": "pytest.importorskip('no_such_module', reason='a reason')\ndef test(): pass",
    "as an expected failure": "@pytest.mark.xfail(reason='a reason')\ndef test(): assert False",
}


def run_pytest(folder: Path, code: str) -> subprocess.CompletedProcess[str]:
    (folder / "test_it.py").write_text(f"import pytest\n{code}\n")
    options = ["-p", "tests.support.no_skips", "-c", "/dev/null", "--rootdir", folder]
    return subprocess.run(
        [sys.executable, "-m", "pytest", *options, folder],
        cwd=ROOT,
        env=os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize("how", SKIPS)
def test_a_skipped_test_fails_the_run_and_its_reason_is_reported(how: str, tmp_path: Path) -> None:
    run = run_pytest(tmp_path, SKIPS[how])
    assert run.returncode != 0
    assert "skipped" not in run.stdout.splitlines()[-1]
    assert "a reason" in run.stdout


def test_a_test_that_passes_does_not_fail_the_run(tmp_path: Path) -> None:
    assert run_pytest(tmp_path, PASSES).returncode == 0
