"""The plain views, of an app that has used its store before its server forks."""

from __future__ import annotations

from plain_app import server as server

client = server.test_client()
assert client.put("/early", json=1).status_code == 200
assert client.get("/").json["values"] == {"early": 1}
