"""A process that appends events from several threads and prints each id once it is acknowledged; it is killed by tests.

python writer.py URL [most bytes of a file]
"""

from __future__ import annotations

import itertools
import os
import resource
import sys
import threading

from lgsid.config.serve import HistoryConfig
from lgsid.serve.base import Event, HistoryStore, StoreFullError
from lgsid.serve.histories.stores import open_store


def say(text: str) -> None:
    os.write(1, f"{text}\n".encode())  # at once, and whole


def endless(store: HistoryStore, writer: int) -> None:
    for number in itertools.count():
        store.append([Event(f"{writer}-{number}", f"u{writer}", "item", number)])
        say(f"{writer}-{number}")


def until_full(store: HistoryStore, most_bytes: int) -> None:
    """Write until the disk is full, then once more, then again when there is room."""
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, hard))
    failed = 0
    for number in itertools.count():
        try:
            store.append([Event(f"0-{number}", "u0", "item" * 50, number)])
        except StoreFullError as error:
            failed += 1
            say(f"full {error.message}")
            if failed == 2:
                resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        else:
            say(f"0-{number}")
            if failed >= 2:
                break
    store.close()


if __name__ == "__main__":
    opened = open_store(HistoryConfig(url=sys.argv[1], most_events=1_000_000))
    if len(sys.argv) > 2:
        until_full(opened, int(sys.argv[2]))
    else:
        for k in range(4):
            threading.Thread(target=endless, args=(opened, k)).start()
