"""A PgBouncer that pools transactions, in front of a PostgreSQL server of the tests."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

import psycopg
from servers_postgresql import AS_NOBODY, END_WITH_PARENT, NOBODY, TIMEOUT, PostgresServer

PATH = os.pathsep.join([os.environ["PATH"], "/usr/sbin", "/usr/local/sbin"])


@contextmanager
def pgbouncer(server: PostgresServer, connections: int) -> Iterator[str]:
    """The URL of a server's database, behind a pooler that has so many connections to it."""
    program = shutil.which("pgbouncer", path=PATH)
    assert program is not None, "PgBouncer is missing; on Debian: apt-get install pgbouncer"
    folder = Path(tempfile.mkdtemp(prefix="pgbouncer-"))
    settings = folder / "pgbouncer.ini"
    settings.write_text(f"""
        [databases]
        postgres = host={server.folder} user=tests
        [pgbouncer]
        pool_mode = transaction
        default_pool_size = {connections}
        auth_type = any
        listen_addr =
        unix_socket_dir = {folder}
        logfile = {folder}/log
        """)
    if AS_NOBODY:
        os.chown(folder, NOBODY, NOBODY)
        settings.chmod(0o644)
    url = f"postgresql://tests@/postgres?host={quote(str(folder), safe='')}&port=6432"
    process = subprocess.Popen(
        [*END_WITH_PARENT, program, "--quiet", str(settings)],
        cwd=folder, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **AS_NOBODY,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + TIMEOUT
        while not _answers(url):
            assert process.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        yield url
    finally:
        process.kill()
        process.wait(TIMEOUT)
        shutil.rmtree(folder, ignore_errors=True)


def _answers(url: str) -> bool:
    with suppress(psycopg.OperationalError), psycopg.connect(url):
        return True
    return False
