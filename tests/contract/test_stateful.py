"""Several processes use the same stores, are killed and started again: what was acknowledged is there, and no more.

Hypothesis thinks up what they do. A model says what has to be stored then.

Promise: docs/reliability.md, "Acknowledged means stored".
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import soak
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule
from store_client import LIFETIME, USER, Client, context
from store_model import TTL, Deed, Large, Model, Outcome, attempt
from visits import Site

from flask_dash_store.expiry import Clock
from flask_dash_store.storage import StorageOptions, open_storage
from flask_dash_store.store.session_state import GRACE

Done = tuple[Deed, Outcome]

WRITERS_ARE_DONE = 2 * 60 * 60.0
"""Seconds after which a file that no row names can only be a crash's, and is removed."""

keys = st.sampled_from("abc")
numbers = st.integers(0, 9)
values = st.one_of(numbers, st.lists(numbers, max_size=2), st.builds(Large, st.integers(1, 255)))
ttls = st.just(TTL / 2)
deeds = st.one_of(
    st.tuples(st.just("set"), keys, values),
    st.tuples(st.just("set for a while"), keys, values, ttls),
    st.tuples(st.just("expire"), keys, ttls),
    st.tuples(st.sampled_from(["delete", "pop", "get"]), keys),
    st.tuples(st.just("append"), keys, numbers),
    st.tuples(st.just("setdefault"), keys, values),
    st.tuples(st.just("increment"), keys, numbers),
    st.tuples(st.just("update"), st.dictionaries(keys, values)),
    st.tuples(st.sampled_from(["popitem", "clear", "copy"])),
)
ends = st.sampled_from(["commit", "commit", "fail"])


def blocks(inside: st.SearchStrategy[Deed]) -> st.SearchStrategy[Deed]:
    return st.tuples(st.just("transact"), st.lists(inside, min_size=1, max_size=4), ends)


atoms = st.booleans().flatmap(lambda is_block: blocks(st.one_of(deeds, blocks(deeds))) if is_block else deeds)
clients = st.sampled_from([0, 1])
stores = st.sampled_from([0, 1, 2])
sessions = st.sampled_from([0, 1])
session_ends = st.sampled_from([("regenerate",), ("destroy",)])
delays = st.sampled_from([0, 0.0005, 0.001, 0.002, 0.005])


def orders(model: Model, ours: list[Done], theirs: list[Done]) -> Iterator[Model]:
    """What is stored after all of it, in each order in which each deed has the outcome that it had."""
    if not ours and not theirs:
        yield model
    for first, rest, others in ((ours[:1], ours[1:], theirs), (theirs[:1], theirs[1:], ours)):
        for deed, outcome in first:
            after = model.clone()
            if attempt(after, deed) == outcome:
                yield from orders(after, rest, others)


class Store:
    """What leads to a store, which is a cookie or the user's name, and models of what it may hold.

    There are several where it cannot be seen yet what has happened: when a key expires is seen when it does.
    """

    def __init__(self, clock: Clock, leads_to: str = "") -> None:
        self.cookie = leads_to
        self.models = [Model(clock)]

    def keep(self, possible: Iterable[Model]) -> None:
        self.models = list({model.identity(): model for model in possible}.values())
        assert self.models

    def note(self, deed: Deed, outcome: Outcome) -> None:
        self.keep([model for model in self.models if attempt(model, deed) == outcome])


class Processes(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.time = context.Value("d", time.time(), lock=False)
        self.clients = [Client(self.folder, self.time) for _ in range(2)]
        self.stores = [Store(self.clock), Store(self.clock), Store(self.clock, USER)]
        self.ended: dict[str, float] = {}  # Cookies, and when their sessions ended.
        for store in self.stores:
            self.look(store)

    def clock(self) -> float:
        return float(self.time.value)

    def do(self, client: int, store: Store, deed: Deed) -> Outcome:
        outcome, store.cookie = self.clients[client].do(store.cookie, deed)
        return outcome

    def look(self, store: Store) -> None:
        """Each process sees what the model says."""
        for client in range(2):
            self.check_deed(client, store, ("copy",))

    def check_deed(self, client: int, store: Store, deed: Deed) -> None:
        outcome = self.do(client, store, deed)
        expected = [attempt(model.clone(), deed) for model in store.models]
        assert outcome in expected
        store.note(deed, outcome)

    # Deeds, of one process or of two at once

    @rule(client=clients, number=stores, deed=atoms)
    def act(self, client: int, number: int, deed: Deed) -> None:
        store = self.stores[number]
        self.check_deed(client, store, deed)
        self.look(store)

    @rule(number=stores, bursts=st.tuples(*[st.lists(atoms, min_size=1, max_size=4)] * 2))
    def race(self, number: int, bursts: tuple[list[Deed], list[Deed]]) -> None:
        """Two processes do several things each, and there is an order in which one could have done them all."""
        store = self.stores[number]
        for client, burst in zip(self.clients, bursts, strict=True):
            client.begin(store.cookie, ("burst", burst))
        outcomes = [client.end()[0][1] for client in self.clients]
        done = [list(zip(*each, strict=True)) for each in zip(bursts, outcomes, strict=True)]
        store.keep(after for model in store.models for after in orders(model, *done))
        self.look(store)

    # Ends of sessions

    @rule(client=clients, number=sessions, end=session_ends)
    def end_session(self, client: int, number: int, end: Deed) -> None:
        store = self.stores[number]
        self.ended[store.cookie] = self.clock()
        assert self.do(client, store, end) == ("returned", None)
        self.note_end(store, end)

    def note_end(self, store: Store, end: Deed) -> None:
        assert store.cookie not in self.ended
        if end == ("destroy",):
            store.models = [Model(self.clock)]
        self.look(store)

    @rule(client=clients, number=sessions, end=session_ends, key=keys, value=values)
    def write_while_session_ends(self, client: int, number: int, end: Deed, key: str, value: Any) -> None:
        store, write = self.stores[number], ("set", key, value)
        self.ended[store.cookie] = self.clock()
        self.clients[client].begin(store.cookie, write)
        self.clients[1 - client].begin(store.cookie, end)
        written, cookie = self.clients[client].end()
        assert cookie == store.cookie
        assert written in [("returned", None), ("raised", "SessionEnded")]
        if written == ("returned", None):
            store.note(write, written)
        ended, store.cookie = self.clients[1 - client].end()
        assert ended == ("returned", None)
        self.note_end(store, end)

    @rule(client=clients, number=st.integers(0, 99))
    def replay(self, client: int, number: int) -> None:
        """What has ended stays ended. A request that comes later gets a session that no one else has."""
        for old, ended_at in list(self.ended.items())[number % max(1, len(self.ended)) :][:1]:
            for deed in (("copy",), ("set", "a", 1)):
                answer, cookie = self.clients[client].do(old, deed)
                if self.clock() - ended_at > GRACE:
                    assert answer == ("returned", {} if deed == ("copy",) else None)
                    assert cookie not in [*self.ended, *(store.cookie for store in self.stores)]
                else:
                    assert answer == (("returned", {}) if deed == ("copy",) else ("raised", "SessionEnded"))
                    assert cookie == old

    # Deaths

    @rule(client=clients)
    def die_idle(self, client: int) -> None:
        self.clients[client].restart()

    @rule(client=clients, number=stores, deeds=st.lists(deeds, max_size=4))
    def die_in_transaction(self, client: int, number: int, deeds: list[Deed]) -> None:
        store = self.stores[number]
        with pytest.raises(EOFError):
            self.do(client, store, ("transact", deeds, "die"))
        self.clients[client].restart()
        self.look(store)

    @rule(client=clients, number=stores, deed=atoms, delay=delays)
    def die_during(self, client: int, number: int, deed: Deed, delay: float) -> None:
        store = self.stores[number]
        answer = self.answer_before_death(client, store, deed, delay)
        if answer is None:
            before = [model.clone() for model in store.models]
            for model in store.models:
                attempt(model, deed)
            store.keep(before + store.models)
        else:
            store.note(deed, answer[0])
        self.look(store)

    def answer_before_death(self, client: int, store: Store, deed: Deed, delay: float) -> tuple[Outcome, str] | None:
        dying = self.clients[client]
        dying.begin(store.cookie, deed)
        answer = dying.end() if dying.has_answered_within(delay) else None
        dying.restart()
        return answer

    @rule(client=clients, number=sessions, end=session_ends, delay=delays)
    def die_while_session_ends(self, client: int, number: int, end: Deed, delay: float) -> None:
        store = self.stores[number]
        answer = self.answer_before_death(client, store, end, delay)
        if answer is not None:
            self.ended[store.cookie] = self.clock()
            store.cookie = answer[1]
            self.note_end(store, end)
        elif self.do(0, store, ("delete", "no such key")) == ("raised", "SessionEnded"):
            self.ended[store.cookie] = self.clock()  # And the visitor was given no other cookie.
            self.stores[number] = Store(self.clock)
            self.look(self.stores[number])
        else:
            self.look(store)

    # Time

    @rule(number=stores, tenths=st.sampled_from([3, 6, 9, 12]))
    def wait_and_look(self, number: int, tenths: int) -> None:
        self.time.value += tenths * TTL / 10
        self.look(self.stores[number])

    @rule(client=clients)
    def purge(self, client: int) -> None:
        self.clients[client].do("", ("purge",))

    def teardown(self) -> None:
        has_failed = sys.exc_info() != (None, None, None)  # Then that is the one thing to report.
        try:
            for store in [] if has_failed else self.stores:
                self.look(store)
        finally:
            for client in self.clients:
                client.kill()
        if not has_failed:
            self.check()
        shutil.rmtree(self.folder)

    def check(self) -> None:
        """Nothing is damaged, and all of it goes when it has expired."""
        site = Site(self.clock, self.folder, ttl=TTL, lifetime=LIFETIME)
        storage = open_storage(f"sqlite:///{self.folder}/store.sqlite", StorageOptions(self.folder))
        checked = site.app.test_cli_runner().invoke(args=["user-store", "check"])
        assert checked.exit_code == 0, checked.output
        self.time.value += WRITERS_ARE_DONE + TTL
        site.middleware.purge()
        remembered = [storage.dump(name) for name in storage.all_owners()]
        assert all(dump.renewed_at is not None and dump.values == [] for dump in remembered)
        assert site.database.execute('SELECT count(*) FROM "values"').get == 0
        assert not list(self.folder.glob("*.buffers/*"))
        site.database.close()
        storage.close()


TestProcesses = Processes.TestCase
TestProcesses.settings = settings(
    max_examples=soak.repeats(ci=20, soak=1000),
    stateful_step_count=soak.repeats(ci=20, soak=50),
    derandomize=not soak.IS_SOAK,
    phases=[Phase.generate],  # Shrinking takes too long, and what depends on when a process dies does not shrink.
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
