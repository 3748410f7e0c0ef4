"""The views of fault_app, of an app that has used its store before its server forks."""

from __future__ import annotations

from fault_app import server as server

client = server.test_client()
assert client.put("/values/early", json=1).status_code == 200
assert client.get("/values").json["values"] == {"early": 1}
