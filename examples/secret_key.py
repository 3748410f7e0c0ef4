"""A SECRET_KEY that survives a restart, for the examples. Your own app gets its key from where it is deployed."""

import os
import secrets
from contextlib import suppress
from pathlib import Path
from tempfile import NamedTemporaryFile


def kept_secret_key(folder: str) -> str:
    """The key in the folder's file ``secret_key``, which the first start makes and its owner alone may read."""
    path = Path(folder) / "secret_key"
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not path.exists():
        with NamedTemporaryFile("w", dir=folder) as draft:
            draft.write(secrets.token_hex())
            draft.flush()
            # A link appears whole or not at all, and the first of several workers wins.
            with suppress(FileExistsError):
                os.link(draft.name, path)
    return path.read_text()
