"""What a store is not: an object with attributes to set, one of several copies, something to pickle."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask, g

from flask_dash_store import NotAnAttribute, UnstorableValue, UserStore, UserStoreMiddleware, user_store
from flask_dash_store.testing import user_store_context


@pytest.fixture(params=["g", "proxy"])
def store(request: pytest.FixtureRequest) -> Iterator[UserStore]:
    app = Flask("shop")
    app.secret_key = "0123456789abcdef0123456789abcdef"
    UserStoreMiddleware(app)
    with user_store_context(app):
        yield g.user_store if request.param == "g" else user_store


@pytest.mark.parametrize("name", ["modified", "permanent", "cart", "_state"])
def test_setting_an_attribute_is_an_error_that_names_edit(store: UserStore, name: str) -> None:
    with pytest.raises(NotAnAttribute, match=rf"{name}[\s\S]*edit\("):
        setattr(store, name, True)


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, UserStore.copy])
def test_a_copy_is_a_dict_of_the_values_and_no_second_store(store: UserStore, copied: Any) -> None:
    store["cart"] = ["books"]
    taken = copied(store)
    assert type(taken) is dict
    taken["cart"].append("shoes")
    taken["more"] = 1
    assert dict(store) == {"cart": ["books"]}


def test_a_store_is_not_pickled_and_the_error_says_what_can_be(store: UserStore) -> None:
    with pytest.raises(UnstorableValue, match=r"store\.copy\(\)[\s\S]*job_handle"):
        pickle.dumps(store)
    with pytest.raises(UnstorableValue):
        store["itself"] = store
    assert dict(store) == {}
