"""A pytest plugin for continuous integration: a test that is skipped, or expected to fail, has failed.

scripts/test loads it with ``-p tests.support.no_skips`` where CI is set.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    return _without_skip((yield))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    return _without_skip((yield))


def _without_skip(report: Any) -> Any:
    if report.skipped:
        # pytest counts no report with a "wasxfail" as a failure.
        reason = vars(report).pop("wasxfail", report.longrepr)
        report.outcome = "failed"
        report.longrepr = f"No test may be skipped here, or expected to fail: {reason}"
    return report
