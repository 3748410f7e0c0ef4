"""How the servers are loaded: by wrk where it is installed, else by our own generator in processes of its own."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

CONNECTIONS = 8
OWN_PROCESSES = 2

# Each request comes from the next of the visitors.
_LUA = """
local cookies = {%s}
local requests = {}
local turn = 0
init = function()
  for number, cookie in ipairs(cookies) do requests[number] = wrk.format("GET", nil, {Cookie = cookie}) end
end
request = function()
  turn = turn %% #requests + 1
  return requests[turn]
end
"""


def version() -> str:
    """Which generator it is."""
    wrk = shutil.which("wrk")
    if wrk is None:
        return f"our own, in {OWN_PROCESSES} Python processes (wrk is not installed)"
    printed = subprocess.run([wrk, "-v"], capture_output=True, text=True, check=False).stdout
    return " ".join(printed.split()[:2])


def requests_per_second(port: int, path: str, cookies: list[str], seconds: int, folder: Path) -> float:
    """What a server answers over eight connections that are kept alive.

    :raises RuntimeError: when any answer was not 200, or none
    """
    return (_wrk if shutil.which("wrk") else _own)(port, path, cookies, seconds, folder)


def _wrk(port: int, path: str, cookies: list[str], seconds: int, folder: Path) -> float:
    script = folder / "visitors.lua"
    script.write_text(_LUA % ", ".join(f'"{cookie}"' for cookie in cookies))
    command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "-s", str(script), f"http://127.0.0.1:{port}{path}"]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    faults = re.findall(r"(Non-2xx.*|Socket errors.*)", output)
    found = re.search(r"Requests/sec:\s*([\d.]+)", output)
    if faults or found is None:
        raise RuntimeError(f"wrk says {faults or output}")
    return float(found[1])


def _own(port: int, path: str, cookies: list[str], seconds: int, folder: Path) -> float:
    each = CONNECTIONS // OWN_PROCESSES
    loads = [Load(port, path, cookies, connections=each, seconds=seconds) for _ in range(OWN_PROCESSES)]
    results = [load.wait() for load in loads]
    return sum(len(result["latencies"]) / result["seconds"] for result in results)


class Load:
    """Our own generator at work, see load.py."""

    def __init__(self, port: int, path: str, cookies: list[str], **options: object) -> None:
        command = [sys.executable, "-m", "benchmarks.load", "--port", str(port), "--path", path]
        command += [f"--cookie={cookie}" for cookie in cookies]
        command += [f"--{name}={value}" for name, value in options.items()]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=Path(__file__).parent.parent
        )
        assert self._process.stdout is not None
        self._output = self._process.stdout
        self._output.readline()  # It has started.

    def stop(self) -> dict[str, Any]:
        """End it, and give what it counted.

        :raises RuntimeError: when any answer was not 200, or none
        """
        assert self._process.stdin is not None
        self._process.stdin.close()
        return self.wait()

    def wait(self) -> dict[str, Any]:
        """What it counted once its time is over."""
        output = self._output.read()
        if self._process.wait():
            raise RuntimeError("the load generator failed")
        return _checked(output)


def _checked(output: bytes) -> dict[str, Any]:
    result: dict[str, Any] = json.loads(output)
    if result["errors"]:
        raise RuntimeError(f"{len(result['errors'])} requests failed, the first with {result['errors'][0]}")
    return result
