"""The benchmarks run with what is installed, name what is not, and count honestly."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks import flask_sessions
from benchmarks.apps import FLASK_COOKIE, FLASK_SESSION_IN_FILES, OURS_IN_SESSION
from benchmarks.bench import Bench
from benchmarks.bounds import BOUNDS, Bound, verdict
from benchmarks.measure import SecondsPerCall, interleaved, ratios, spread, summary
from benchmarks.peers import PEERS
from benchmarks.report import render, save
from benchmarks.results import Result, Table

ROOT = Path(__file__).parents[2]


def test_one_measurement_runs_with_what_is_installed_and_names_what_is_not(tmp_path):
    command = [sys.executable, "-m", "benchmarks", "--quick", "--only", "small_values", "--output", str(tmp_path)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert run.returncode == 0, run.stderr

    document = (tmp_path / "benchmarks.md").read_text()
    for peer in PEERS:
        assert f"\n| {peer} " in document or f"\n- not run: {peer}: " in document
    for bound in BOUNDS:
        assert bound.text in document
    assert "failed" not in document
    assert str(tmp_path) not in document
    assert str(ROOT) not in document
    assert {path.name for path in (tmp_path / "benchmarks").iterdir()} == {
        "small_values.json", "small_values-1.svg", "small_values-2.svg",
    }  # fmt: skip
    assert len((tmp_path / "benchmarks" / "small_values.json").read_text().splitlines()) < 150


def test_a_measurement_on_its_own_keeps_what_the_document_has_of_the_others(tmp_path):
    for name, times in (("one", [1.0, 2.0, 3.0]), ("other", "failed: OSError")):
        table = Table("A table", "keys", ["get"])
        table.add("flask_dash_store", times)
        save(Result(name, f"Title of {name}", "About it.", [table]), tmp_path)
    render(["one", "other", "never measured"], tmp_path)

    document = (tmp_path / "benchmarks.md").read_text()
    assert "| flask_dash_store | 2 (1.5\u20132.5) |" in document
    assert "Title of other" in document
    assert "failed: OSError" in document


@pytest.mark.parametrize("rows", [{"a": 1.0, "b": 3.0}, {"a": 0.01, "b": 1e6}, {"a": "failed", "b": 2.0}])
def test_each_table_can_be_drawn(tmp_path, rows):
    table = Table("1 < 2 & 3", "µs", ["100", "1,000"])
    for name, number in rows.items():
        for _ in table.columns:
            table.add(name, number if isinstance(number, str) else [number])
    save(Result("one", "One", "About.", [table]), tmp_path)
    render(["one"], tmp_path)
    ElementTree.parse(tmp_path / "benchmarks" / "one-1.svg")


def test_what_cannot_run_is_named_with_the_reason(tmp_path):
    def absent(folder):
        import no_such_module  # noqa: F401

    bench = Bench("one", tmp_path, is_quick=True)
    assert bench.opened({"absent": absent, "present": str}) == {"present": str(tmp_path / "present")}
    assert "no_such_module" in bench.missing["absent"]


@pytest.mark.parametrize(
    ("name", "kept"),
    {
        OURS_IN_SESSION: [8, 8, False, False],
        FLASK_COOKIE: [1, 1, True, False],
        FLASK_SESSION_IN_FILES: [1, 1, True, True],
    }.items(),
)
def test_what_is_said_of_sessions_in_flight_is_what_happens(tmp_path, name, kept):
    assert flask_sessions.promises(name, tmp_path) == kept


# The statistics


def test_the_spread_is_the_median_between_the_quartiles():
    assert spread([5.0, 1.0, 4.0, 2.0, 3.0]) == (3.0, 2.0, 4.0)
    assert spread([7.0]) == (7.0, 7.0, 7.0)


def test_a_ratio_is_taken_within_each_round_so_a_slow_round_counts_for_both():
    quiet, slow = 1.0, 10.0
    assert ratios([2 * quiet, 2 * slow, 2 * quiet], [quiet, slow, quiet]) == [2.0, 2.0, 2.0]


def test_a_failure_is_the_outcome_of_a_ratio():
    assert ratios([1.0], "failed: OSError") == ratios("failed: OSError", [1.0]) == "failed: OSError"


def test_each_round_asks_each_subject_once_and_begins_with_another():
    asked = []

    def subject(name):
        def ask():
            asked.append(name)
            return float(len(asked))

        return ask

    outcomes = interleaved({name: subject(name) for name in "abc"}, rounds=3)
    assert "".join(asked) == "abcbcacab"
    assert outcomes == {"a": [1.0, 6.0, 8.0], "b": [2.0, 4.0, 9.0], "c": [3.0, 5.0, 7.0]}


def test_a_subject_that_fails_is_asked_no_more_and_leaves_the_others_alone():
    calls = []

    def fails():
        calls.append(1)
        raise OSError("disk full")

    outcomes = interleaved({"bad": fails, "good": lambda: 1.0}, rounds=3)
    assert outcomes == {"bad": "failed: OSError: disk full", "good": [1.0, 1.0, 1.0]}
    assert len(calls) == 1


def test_a_slow_operation_is_called_once_per_round_after_a_first_call_that_does_not_count():
    calls = []
    subject = SecondsPerCall(lambda: calls.append(1))
    for _ in range(3):
        assert subject() > 0
    assert len(calls) == 4


def test_a_short_operation_is_called_as_often_in_each_round():
    calls = []
    subject = SecondsPerCall(lambda: calls.append(1), block=0.001)
    subject()
    counts = []
    for _ in range(3):
        before = len(calls)
        subject()
        counts.append(len(calls) - before)
    assert counts[0] > 1
    assert len(set(counts)) == 1


# The bounds


def test_a_bound_is_met_or_not_by_the_median_of_the_rounds():
    at_most, at_least = Bound("one", "one", 2.4), Bound("other", "other", 0.9, at_least=True)
    assert verdict(at_most, summary([2.4, 1.0, 99.0])) == "met"
    assert verdict(at_most, summary([2.5, 1.0, 99.0])) == "not met"
    assert verdict(at_least, summary([0.9])) == "met"
    assert verdict(at_least, summary([0.8])) == "not met"


def test_what_was_not_measured_is_neither_met_nor_missed():
    assert verdict(BOUNDS[0], "failed: OSError") == "failed: OSError"


def test_results_come_back_from_their_file_as_they_were(tmp_path):
    table = Table("A table", "µs", ["get"])
    table.add("peer", [1.23456e-6])
    bounded = {"get": summary([1.0])}
    result = Result("one", "One", "About.", [table], bounded, {"absent": "why"}, "command", {"cores": "2"})
    result.save(tmp_path)
    assert Result.load(tmp_path / "one.json") == result
    assert table.rows == {"peer": [spread([1.235])]}


def test_the_measurement_of_the_admin_page_runs():
    command = [sys.executable, "-m", "benchmarks.admin_page", "--sessions", "50"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert run.returncode == 0, run.stderr
    assert len(run.stdout.splitlines()) == 7
