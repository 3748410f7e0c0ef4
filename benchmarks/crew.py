"""Processes that work at the same access, each with an object of its own, and answer through pipes."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, Self

ANSWER_WITHIN = 300.0

# The members share nothing with this process, as the workers of a server do.
_context = multiprocessing.get_context("spawn")


class Crew:
    """So many processes, each with what ``make(*arguments)`` gives it."""

    def __init__(self, size: int, make: Callable[..., object], *arguments: object) -> None:
        self._pipes: list[Connection] = []
        self._processes = []
        for _ in range(size):
            ours, theirs = _context.Pipe()
            process = _context.Process(target=_serve, args=(theirs, make, arguments), daemon=True)
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)

    @property
    def pids(self) -> list[int]:
        return [process.pid for process in self._processes if process.pid]

    def start(self, method: str, *arguments: object, members: int | None = None) -> Callable[[], list[Any]]:
        """Have the first so many members call a method. What is returned waits for their answers."""
        pipes = self._pipes[:members]
        for pipe in pipes:
            pipe.send((method, arguments))
        return lambda: _checked([_receive(pipe) for pipe in pipes])

    def call(self, method: str, *arguments: object, members: int | None = None) -> list[Any]:
        return self.start(method, *arguments, members=members)()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.join()


def _receive(pipe: Connection) -> Any:
    if not pipe.poll(ANSWER_WITHIN):
        raise TimeoutError(f"no answer within {ANSWER_WITHIN:g} seconds")
    return pipe.recv()


def _checked(answers: list[Any]) -> list[Any]:
    for answer in answers:
        if isinstance(answer, _Failure):
            raise RuntimeError(answer.text)
    return answers


class _Failure:
    def __init__(self, text: str) -> None:
        self.text = text


def _serve(pipe: Connection, make: Callable[..., object], arguments: tuple[object, ...]) -> None:
    worker = make(*arguments)
    while True:
        try:
            method, given = pipe.recv()
        except EOFError:
            os._exit(0)  # Threads that hang must not keep it.
        try:
            answer = getattr(worker, method)(*given)
        except Exception as error:
            answer = _Failure(f"{type(error).__name__}: {error}")
        pipe.send(answer)
