"""The admin page shows how much there is and whose, of values only what it may, and never what opens a session."""

from __future__ import annotations

import json
from typing import Any

import pytest
from admin_page import MakeSite, Site, hrefs, text
from clocks import HandClock

from flask_dash_store.owner import user_owner

HOSTILE = ['<img src=x onerror="alert(1)">', "a/b?c#d&e=f%41", "evil‮txt.exe", "tab\tnew\nline", "zoë", "'\"`${1}"]


class Grumpy:
    """A value of the app's own class that cannot be shown."""

    def __repr__(self) -> str:
        raise RuntimeError("a secret in the message")


class Gone:
    """A value whose class is gone when it is read."""

    def __reduce__(self) -> Any:
        return "Missing"


class Frame:
    """What shows itself in many lines, as a DataFrame does."""

    shape = (3, 4)

    def __repr__(self) -> str:
        return "all of its numbers"


def test_the_tiles_count_sessions_users_bytes_and_keys(site: Site, clock: HandClock) -> None:
    site.visitor(cart=1, filters=2)
    clock.step(7200)
    site.visitor(cart=1)
    site.stores.for_user("ada")["note"] = 1
    tiles = site.page.text("tiles.children")
    assert "Sessions 1 +1 in 1 h · +1 in 24 h" in tiles
    assert "Users 1" in tiles
    assert "in 2 keys" in tiles
    assert "Expired 1" in tiles
    assert "free" in tiles
    assert "WAL" in tiles
    assert "Reads and writes work." in site.page.text("status.children")


def test_an_empty_store_is_empty_though_the_page_keeps_something_in_it(site: Site) -> None:
    for _ in range(2):
        tiles = site.page.text("tiles.children")
    assert "Sessions 0" in tiles
    assert "0 bytes in 0 keys" in tiles
    assert "There are no sessions." in site.page.text("owners.children")
    result = site.app.test_cli_runner().invoke(args=["user-store", "stats", "--json"])
    stats = json.loads(result.output)
    assert (stats["bytes"], stats["keys"], stats["largest"]) == (0, 0, [])


def test_sessions_are_listed_sorted_and_searched_page_by_page(site: Site, clock: HandClock) -> None:
    for number in range(30):
        site.visitor(cart="x" * 100 * number)
        clock.step(1)
    newest = site.page.rows()
    answer = site.page.call("owners.children", offset=25)
    rest = [href[1:] for href in hrefs(answer["owners.children"])]
    assert (len(newest), len(rest), len({*newest, *rest})) == (25, 5, 30)
    assert answer["range.children"] == "26 to 30 of 30"
    assert (answer["previous.disabled"], answer["next.disabled"]) == (False, True)
    assert site.page.rows(order="oldest")[0] == rest[-1]
    assert site.page.rows(order="largest")[0] == newest[0]
    assert site.page.rows(order="expiring")[0] == rest[-1]
    assert site.page.rows(search=newest[3][5:15]) == [newest[3]]
    assert site.page.rows(search="nothing has this") == []


def test_a_page_after_the_last_one_shows_the_last_one(site: Site) -> None:
    site.visitor(cart=1)
    answer = site.page.call("owners.children", offset=100)
    assert answer["range.children"] == "1 to 1 of 1"


@pytest.mark.parametrize("offset", [-5, "1; DROP", None, 1.5, [], {}, 2**63])
def test_what_is_no_offset_is_the_beginning(site: Site, offset: Any) -> None:
    site.visitor(cart=1)
    assert len(site.page.rows(offset=offset, order="x", view={}, search=["y"])) == 0
    assert len(site.page.rows(offset=offset, order=None, view=None, search=None)) == 1


def test_a_page_reads_no_value_and_takes_as_many_statements_of_many_sessions_as_of_few(
    site: Site, statements: list[str]
) -> None:
    def asked() -> int:
        before = len(statements)
        site.page.rows()
        site.page.rows(offset=5)
        site.page.call("sizes-plot.figure")
        return len(statements) - before

    site.visitor(cart=1)
    asked()
    few = asked()
    for _ in range(60):
        site.visitor(cart=1, note=2)
    assert asked() <= few


def test_a_session_shows_its_keys_with_sizes_and_expiries_but_no_values(site: Site, clock: HandClock) -> None:
    site.visitor(cart=["a secret"], note="another secret" * 100)
    (name,) = site.page.rows()
    detail = site.page.detail(name)
    shown = text([detail["detail-facts.children"], detail["detail-content.children"]])
    assert detail["detail.hidden"] is False
    assert "in 2 keys" in shown
    assert shown.index("note") < shown.index("cart")  # the larger one first
    assert "secret" not in json.dumps(detail)


class Wide:
    """Its shape is an attribute that is no array's."""

    shape = ("w" * 5000,)


def test_values_are_shown_shortened_where_the_app_says_so(make_site: MakeSite) -> None:
    site = make_site(show_values=True)
    site.visitor(cart=["apples"], note="n" * 5000, wide=Wide())
    (name,) = site.page.rows()
    shown = text(site.page.detail(name)["detail-content.children"])
    assert "w" * 500 not in shown
    assert "['apples']" in shown
    assert "nnn" in shown
    assert "n" * 200 not in shown


def test_a_large_value_is_not_read_to_be_shown(make_site: MakeSite, monkeypatch: pytest.MonkeyPatch) -> None:
    site = make_site(show_values=True)
    site.visitor(upload=b"x" * 200_000, text="y" * 40_000)
    (name,) = site.page.rows()
    monkeypatch.setattr(site.opened.codec, "decode", lambda *_: pytest.fail("A value was read."))
    assert text(site.page.detail(name)["detail-content.children"]).count("Not read: it is large.") == 2


def test_a_value_that_cannot_be_read_or_shown_says_so(make_site: MakeSite, monkeypatch: pytest.MonkeyPatch) -> None:
    site = make_site(show_values=True)
    module = Gone.__module__
    monkeypatch.setitem(globals(), "Missing", Gone())
    site.visitor(grumpy=Grumpy(), frame=Frame(), gone=Missing)  # noqa: F821
    monkeypatch.delitem(globals(), "Missing")
    (name,) = site.page.rows()
    shown = text(site.page.detail(name)["detail-content.children"])
    assert "Grumpy" in shown or "Cannot be shown: RuntimeError." in shown
    assert "a secret in the message" not in shown
    assert "Frame of shape 3 by 4" in shown
    assert "Cannot be read:" in shown
    assert module


def test_hostile_names_and_keys_are_text(site: Site) -> None:
    for each in HOSTILE:
        site.stores.for_user(each)[each.replace("/", "").replace("%", "")] = 1
    answer = site.page.call("owners.children", view="users")
    names = [href[1:] for href in hrefs(answer["owners.children"])]
    assert sorted(names) == sorted(user_owner(each).name for each in HOSTILE)
    shown = text(answer["owners.children"])
    assert "‮" not in shown
    assert "\\u202e" in shown
    for name in names:
        detail = site.page.detail(name)
        assert "1 key" in text(detail["detail-facts.children"])
        assert "\t" not in text(detail["detail-content.children"])


def test_what_is_no_text_is_no_name(site: Site) -> None:
    for junk in (1, True, ["s.someone"], {"s.": 1}):
        assert site.page.call("detail.hidden", url=junk)["detail.hidden"] is True
        assert site.page.call("ended.data", end=1, url=junk) == {}


@pytest.mark.parametrize(
    "name",
    [
        "",
        "s.",
        "u.",
        "a.tasks",
        "h.health",
        "x",
        "s.nobody",
        "u.nobody",
        "../etc",
        "s.a/b",
        "u.%",
        "%00",
        "u.\0",
        "s.\ud800",
    ],
)
def test_what_is_no_ones_name_shows_nothing_and_ends_nothing(site: Site, name: str) -> None:
    site.visitor(cart=1)
    site.page.text("tiles.children")
    detail = site.page.detail(name)
    assert detail["detail-actions.hidden"] is True
    assert detail["detail-content.children"] in (None, [])
    answer = site.page.call("ended.data", end=1, url=f"#{name}", ended=0)
    assert "Ended 1" not in json.dumps(answer)
    assert len(site.page.rows()) == 1


def test_ending_a_session_logs_its_visitor_out_and_no_one_else(site: Site, clock: HandClock) -> None:
    ada = site.visitor(cart=1)
    clock.step(1)
    bob = site.visitor(cart=2)
    names = site.page.rows(order="oldest")
    answer = site.page.call("ended.data", end=1, url=f"#{names[0]}", ended=0)
    assert answer == {"ended.data": 1, "end-note.children": "Ended 1 session."}
    assert (ada.get("/keys").json, bob.get("/keys").json) == ([], ["cart"])
    assert site.page.rows() == [names[1]]
    assert "This session has ended" in text(site.page.detail(names[0])["detail-facts.children"])
    assert site.page.call("ended.data", end=1, url=f"#{names[0]}", ended=0)["end-note.children"] == "Ended 0 sessions."
    assert "Sessions 1" in site.page.text("tiles.children")


def test_ending_the_sessions_of_a_user_keeps_the_values_of_the_user_id(site: Site) -> None:
    ada, again, bob = site.visitor(cart=1), site.visitor(cart=2), site.visitor(cart=3)
    for client, user in ((ada, "ada"), (again, "ada"), (bob, "bob")):
        client.get(f"/log-in/{user}")
    site.stores.for_user("ada")["note"] = 1
    detail = site.page.detail("u.ada")
    assert "Logged in, in 2 sessions" in text(detail["detail-content.children"])
    assert "2 sessions" in detail["end-question.children"]
    site.page.call("ended.data", end=1, url="#u.ada", ended=0)
    assert [client.get("/keys").json for client in (ada, again, bob)] == [[], [], ["cart"]]
    assert dict(site.stores.for_user("ada")) == {"note": 1}


def test_a_user_without_values_is_found_by_the_user_id(site: Site) -> None:
    site.visitor(cart=1).get("/log-in/ada")
    answer = site.page.call("owners.children", view="users", search="ada")
    assert hrefs(answer["owners.children"]) == []
    assert hrefs(answer["owners-note.children"]) == ["#u.ada"]
    assert "Logged in, in 1 session" in text(site.page.detail("u.ada")["detail-content.children"])


def test_no_session_id_is_on_the_page(make_site: MakeSite) -> None:
    site = make_site(show_values=True)
    visitor = site.visitor(cart=1)
    visitor.get("/log-in/ada")
    secret = visitor.get("/id").text[20:]
    seen = [
        site.page.client.get("/user-store/").text,
        site.page.client.get("/user-store/_dash-layout").text,
        json.dumps(site.page.call("owners.children")),
        json.dumps(site.page.detail(site.page.rows()[0])),
        json.dumps(site.page.detail("u.ada")),
    ]
    assert not [each for each in seen if secret in each or secret[:12] in each]


def test_looking_keeps_no_session_alive(make_site: MakeSite, clock: HandClock) -> None:
    site = make_site(show_values=True)
    site.visitor(cart=1)
    (name,) = site.page.rows()
    for _ in range(4):
        clock.step(1000)
        site.page.detail(name)
        site.page.text("tiles.children")
    assert site.page.rows() == []


def test_a_store_that_cannot_be_asked_is_said_to_be(site: Site) -> None:
    site.visitor(cart=1)
    site.page.text("tiles.children")
    site.opened.storage.close()
    assert "closed" in site.page.text("owners.children")
    assert "closed" in text(site.page.detail("s.someone")["detail-facts.children"])
    assert "could not be ended" in site.page.call("ended.data", end=1, url="#s.someone")["end-note.children"]
    assert "could not be started" in site.page.run("purge")
