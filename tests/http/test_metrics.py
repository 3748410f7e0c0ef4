"""With `metrics=` the calls of the storage are counted and timed, for OpenTelemetry or Prometheus; else nothing is."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from clocks import HandClock
from faults import write_lock_held
from flask import Flask, g
from opentelemetry.metrics import set_meter_provider
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from prometheus_client import REGISTRY, generate_latest

from flask_dash_store import ConfigurationError, QuotaExceeded, StorageBusy, UserStoreMiddleware
from flask_dash_store.metrics import OPERATIONS

_numbers = count()
_reader = InMemoryMetricReader()
set_meter_provider(MeterProvider([_reader]))

Read = Callable[..., float]


class Site:
    """An app of a name of its own, under which it is counted."""

    def __init__(self, url: str, kind: str | None, clock: HandClock, **options: Any) -> None:
        self.app = Flask(f"measured_{next(_numbers)}")
        self.app.secret_key = "k" * 32
        self.stores = UserStoreMiddleware(self.app, url=url, metrics=kind, clock=clock, ttl=60, **options)  # type: ignore[arg-type]
        self.app.add_url_rule("/put", "put", lambda: g.user_store.update(key="value") or "")
        self.app.add_url_rule("/end", "end", lambda: g.user_store.destroy() or "")

    @property
    def name(self) -> str:
        return self.stores.extension().name


def in_prometheus(site: Site, name: str, **labels: str) -> float:
    sample = {"calls": "operation_duration_seconds_count", "seconds": "operation_duration_seconds_sum"}.get(name, name)
    return REGISTRY.get_sample_value(f"user_store_{sample}", {"app": site.name, **labels}) or 0.0


def in_opentelemetry(site: Site, name: str, **labels: str) -> float:
    renamed = {"calls": "operations", "seconds": "operation.duration", "errors_total": "errors"}
    renamed |= {"purged_total": "purged", "sessions_started_total": "sessions.started"}
    renamed |= {
        "sessions_ended_total": "sessions.ended",
        "operation_duration_seconds_bucket": "operation.duration.bucket",
    }
    labels = {"app": site.name, **labels}
    labels = {{"error": "error.type"}.get(label, label): text for label, text in labels.items()}
    data = _reader.get_metrics_data()
    assert data is not None
    points = [
        point
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
        if metric.name == f"user_store.{renamed[name]}"
        for point in metric.data.data_points
        if point.attributes == labels
    ]
    return sum(point.value for point in points)  # type: ignore[union-attr]


READS: dict[str, Read] = {"prometheus": in_prometheus, "opentelemetry": in_opentelemetry}


@pytest.fixture(params=READS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def read(kind: str) -> Read:
    return READS[kind]


def test_each_call_of_the_storage_is_counted_and_timed(url: str, kind: str, read: Read, clock: HandClock) -> None:
    site = Site(url, kind, clock)
    store = site.stores.for_user("ann")
    store["key"] = 1
    assert [store["key"] for _ in range(3)] == [1, 1, 1]
    assert (read(site, "calls", operation="get"), read(site, "calls", operation="set")) == (3, 1)
    assert read(site, "seconds", operation="get") > 0
    assert read(site, "operation_duration_seconds_bucket", operation="get", le="+Inf") == 3
    with store.transaction():
        store["key"] = 2
    assert read(site, "calls", operation="begin") >= 1
    site.stores.close()


def test_errors_are_counted_by_their_kind(tmp_path: Path, kind: str, read: Read, clock: HandClock) -> None:
    site = Site(f"sqlite:///{tmp_path}/store.sqlite", kind, clock, max_bytes=1000, timeout=0.1)
    store = site.stores.for_user("ann")
    with pytest.raises(QuotaExceeded):
        store["key"] = "x" * 2000
    assert read(site, "errors_total", operation="set", error="QuotaExceeded") == 1
    with write_lock_held(tmp_path / "store.sqlite"), pytest.raises(StorageBusy), store.transaction():
        pass
    assert read(site, "errors_total", operation="begin", error="StorageBusy") == 1


def test_sessions_that_begin_and_end_and_what_is_purged_are_counted(
    tmp_path: Path, kind: str, read: Read, clock: HandClock
) -> None:
    site = Site(f"sqlite:///{tmp_path}/store.sqlite", kind, clock)
    first, second = site.app.test_client(), site.app.test_client()
    for client in (first, second):
        client.get("/put")
    first.get("/end")
    assert read(site, "sessions_started_total") >= 2
    assert read(site, "sessions_ended_total") == 1
    clock.step(61)
    site.stores.purge()
    assert read(site, "purged_total", what="owners") == 1


def test_measured_transactions_roll_back_and_tell_after_the_commit(url: str, kind: str, clock: HandClock) -> None:
    site = Site(url, kind, clock)
    store = site.stores.for_user("ann")
    with pytest.raises(ZeroDivisionError), store.transaction():
        store["key"] = 1
        raise ZeroDivisionError
    assert "key" not in store
    with store.transaction():
        store["key"] = store.get("key", 0) + 1
        with store.transaction():
            store["other"] = 1
    assert store == {"key": 1, "other": 1}
    site.stores.close()


def test_two_apps_are_counted_apart(tmp_path: Path, kind: str, read: Read, clock: HandClock) -> None:
    one, other = (Site(f"sqlite:///{tmp_path}/{name}.sqlite", kind, clock) for name in ("one", "other"))
    one.stores.for_user("ann")["key"] = 1
    other.stores.for_user("ann").get("key")
    assert (read(one, "calls", operation="set"), read(other, "calls", operation="set")) == (1, 0)


def test_without_it_the_storage_is_as_it_was(tmp_path: Path, clock: HandClock) -> None:
    storage = Site(f"sqlite:///{tmp_path}/store.sqlite", None, clock).stores.opened().storage
    assert set(vars(storage)).isdisjoint([*OPERATIONS, "transaction"])
    code = """
import sys, flask_dash_store
print([name for name in sys.modules if name.startswith(("opentelemetry", "prometheus_client"))])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "[]\n"


def test_prometheus_client_serves_them_as_text(tmp_path: Path, clock: HandClock) -> None:
    site = Site(f"sqlite:///{tmp_path}/store.sqlite", "prometheus", clock)
    site.stores.for_user("ann")["key"] = 1
    count = f'user_store_operation_duration_seconds_count{{app="{site.name}",operation="set"}} 1.0'
    assert count in generate_latest().decode().splitlines()


@pytest.mark.parametrize(
    ("kind", "module"), [("prometheus", "prometheus_client"), ("opentelemetry", "opentelemetry.metrics")]
)
def test_a_package_that_is_missing_is_named(kind: str, module: str) -> None:
    code = f"""
import sys
sys.modules["{module}"] = None
from flask import Flask
from flask_dash_store import ConfigurationError, UserStoreMiddleware
try:
    UserStoreMiddleware(Flask("app"), metrics="{kind}")
except ConfigurationError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert f"pip install 'flask_dash_store[{kind}]'" in done.stdout


def test_another_kind_is_refused(clock: HandClock) -> None:
    with pytest.raises(ConfigurationError, match="USER_STORE_METRICS"):
        Site("memory://", "statsd", clock)


def test_metrics_name_no_session_no_user_and_no_key(tmp_path: Path, clock: HandClock) -> None:
    site = Site(f"sqlite:///{tmp_path}/store.sqlite", "prometheus", clock)
    site.stores.for_user("a-user-id")["a-key"] = "a-value"
    client = site.app.test_client()
    client.get("/put")
    cookie = client.get_cookie("user_store")
    assert cookie is not None
    text = generate_latest().decode()
    assert site.name in text
    for secret in ("a-user-id", "a-key", "a-value", cookie.value[:20]):
        assert secret not in text
