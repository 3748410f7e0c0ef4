"""Cookie headers that are not quite an authentic one."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator

from itsdangerous import TimestampSigner
from visits import SECRET

JUNK = ["A", "=", ".", "-", " ", "\t", "\x00", '"', "\\", "%", ";", ",", "\xe9", "\xff", "\n", "user_store="]


def mutations(crumb: str) -> Iterator[str]:
    """Cookie headers that differ from an authentic one, in ways that matter and in ways that should not."""
    name, _, value = crumb.partition("=")
    for at, char in enumerate(value):
        head, tail = value[:at], value[at + 1 :]
        yield from (f"{name}={head}{chr(ord(char) ^ 1 << bit)}{tail}" for bit in range(8))
        yield from (f"{name}={head}{junk}{char}{tail}" for junk in JUNK)
        yield from (f"{name}={head}", f"{name}={char}{tail}x", f"{name}={head}{tail}", f"{name}={tail}")
    session_id, scope, issued, signature = value.split(".")
    yield from (
        f"{name}={'.'.join(parts)}"
        for parts in [
            (session_id,),
            (session_id, signature),
            (session_id, issued, signature),
            (scope, session_id, issued, signature),
            (value, signature),
        ]
    )
    yield from (f'{name}="{value}"', f"{name}='{value}'")
    yield from (f"{name.upper()}={value}", f" x{crumb}", f"{name}-={value}", value, name, "", ";", "=", f"={value}")
    yield from (f"{name}={value * 1000}", f"{name}=" + "\xff" * 100_000, f"{name}={'A' * 64}.")
    for salt in ("cookie-session", "itsdangerous", "itsdangerous.Signer", "flask_dash_store", "user_store", ""):
        for method in (hashlib.sha1, hashlib.sha256, hashlib.sha384, hashlib.sha512):
            for key_derivation in ("django-concat", "concat", "hmac", "none"):
                signer = TimestampSigner(SECRET, salt, digest_method=method, key_derivation=key_derivation)
                yield f"{name}={signer.sign(session_id[::-1]).decode()}"


def random_mutations(crumb: str, seed: int) -> Iterator[str]:
    """The same without end: several changes at once, where the seed says."""
    chance = random.Random(seed)
    while True:
        name, _, value = crumb.partition("=")
        for _ in range(chance.randint(1, 4)):
            at, to = sorted(chance.choices(range(len(value) + 1), k=2))
            change = chance.choice([*JUNK, value[at:to], value[at:to][::-1], "", value[at:to].swapcase()])
            value = value[:at] + change + value[to:]
        yield f"{name}={value}"
