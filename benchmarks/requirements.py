"""The ratios that must be reached. The measurements give the numbers; this says which are asked for, and how much."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .measure import Outcome, Spread, spread


@dataclass(frozen=True)
class Requirement:
    """One ratio, and its limit: at most, or at least."""

    key: str
    text: str
    limit: float
    at_least: bool = False

    def is_met(self, ratio: Spread) -> bool:
        return ratio.median >= self.limit if self.at_least else ratio.median <= self.limit

    @property
    def bound(self) -> str:
        return f"{'at least' if self.at_least else 'at most'} {self.limit:.2f}"


REQUIREMENTS = (
    Requirement("untouched", "request that does not touch the store / the same on bare Flask", 1.10),
    Requirement("read", "request that reads a key / bare Flask", 1.6),
    Requirement("write", "request that reads and writes a key / bare Flask", 2.4),
    Requirement("write_cookie", "the same / Flask's own signed-cookie session (read and write)", 0.8),
    Requirement("write_flask_session", "the same / the fastest Flask-Session backend", 0.25),
    Requirement("write_redis", "request that reads and writes a key on Redis / Flask-Session on the same Redis", 0.5),
    Requirement(
        "get_raw", "`store[key]` small, MAC and expiry checked / raw SELECT through APSW plus `pickle.loads`", 2.5
    ),
    Requirement("set_raw", "`store[key] = v` small / raw upsert plus `pickle.dumps`", 2.0),
    Requirement("get_sqlitedict", "`store[key]` small / stock sqlitedict", 0.15),
    Requirement("set_sqlitedict", "`store[key] = v` small / stock sqlitedict", 0.10),
    Requirement("dataframe_get", "get of a 50 MB numeric DataFrame / `pickle.load` of it from a file", 0.15),
    Requirement("dataframe_set", "set of a 50 MB numeric DataFrame / `pickle.dump` of it to a file", 1.3),
    Requirement("scale_get", "get of a small value with 1,000,000 sessions / with 100", 2.0),
    Requirement("scale_set", "set of a small value with 1,000,000 sessions / with 100", 2.0),
    Requirement("purge_after", "p99 of a request while the app purges 100,000 sessions after responses / without", 2.0),
    Requirement("purge_beside", "p99 of a request while another process purges 100,000 sessions / without", 2.0),
    Requirement("threads", "8 threads reading in one process / 1 thread, operations per second", 0.9, at_least=True),
)


@dataclass(frozen=True)
class Verdict:
    requirement: Requirement
    ratio: Spread | None
    text: str


def judge(ratios: Mapping[str, Outcome]) -> list[Verdict]:
    """What became of each requirement. One that was not measured is neither met nor missed, and says why."""
    verdicts = []
    for requirement in REQUIREMENTS:
        outcome = ratios.get(requirement.key, "not measured")
        if isinstance(outcome, str):
            verdicts.append(Verdict(requirement, None, outcome))
        else:
            ratio = spread(outcome)
            verdicts.append(Verdict(requirement, ratio, "met" if requirement.is_met(ratio) else "not met"))
    return verdicts
