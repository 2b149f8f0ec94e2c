"""A process beside the service that recommends: ``python -m lgsid.serve.worker FD``, started by `lgsid.serve.workers`.

It has the run in memory for itself, and so a Python of its own: what it computes is not in the way of the process that
listens. It does one request at a time, and ends when the other end of its connection is closed, however that came to
be; signals are for the process that listens.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from lgsid.config.serve import ServeConfig
from lgsid.errors import LgsidError
from lgsid.serve.engine import RunEngine, settle

READY, DONE, REFUSED, FAILED = "ready", "done", "refused", "failed"
"""Replies: the run is loaded; a result; an error that lgsid words; any other error."""


def main(connection: Connection) -> None:
    """Load the run that is asked for first, then do what is asked until nobody is there to ask."""
    root, config = connection.recv()
    engine = _loaded(connection, root, config)
    while engine is not None:
        method, arguments = connection.recv()
        connection.send(_reply(engine, method, arguments))


def _loaded(connection: Connection, root: Path, config: ServeConfig) -> RunEngine | None:
    try:
        engine = RunEngine.load(root, config)
    except LgsidError as error:
        connection.send(_refusal(error))
        return None
    except Exception:
        connection.send((FAILED, traceback.format_exc()))
        return None
    settle()
    connection.send((READY, engine.version))
    return engine


def _reply(engine: RunEngine, method: str, arguments: tuple[Any, ...]) -> tuple[str, Any]:
    try:
        return DONE, getattr(engine, method)(*arguments)
    except LgsidError as error:
        return _refusal(error)
    except Exception:
        return FAILED, traceback.format_exc()


def _refusal(error: LgsidError) -> tuple[str, Any]:
    """An error as its kind and words: not every kind can be pickled."""
    return REFUSED, (type(error), error.message, error.fix)


def error_of(kind: type[LgsidError], message: str, fix: str | None) -> LgsidError:
    """The error that a refusal tells of, without what else it carried."""
    error = kind.__new__(kind)
    LgsidError.__init__(error, message, fix)
    return error


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    try:
        main(Connection(int(sys.argv[1])))
    except (EOFError, OSError):  # the service has ended, or wants this process no more
        os._exit(0)
