"""Starting and stopping the service: the process that listens, signals, and an end that finishes what was begun."""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI

from lgsid.config.serve import ServeConfig
from lgsid.config.serve_limits import LimitConfig
from lgsid.errors import ConfigError
from lgsid.serve.app import make_app
from lgsid.serve.limits import HASH_COMMAND, KEYS_VARIABLE, with_environment
from lgsid.serve.service import Service
from lgsid.serve.telemetry import configure_logging

log = logging.getLogger("lgsid.serve")
_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_THIS_MACHINE = ("localhost", "127.0.0.1", "[::1]")
_KEEP_ALIVE_SECONDS = 65
"""Longer than the minute for which most proxies keep a connection."""


def serve(run: Path, config: ServeConfig, host: str, port: int, workers: int = 0) -> None:
    """Load a run and answer requests until a signal comes; does not return before all is finished.

    Args:
        run: a run folder.
        config: of stage 6; keys of the environment are added.
        host, port: to listen on; port 0 takes a free one.
        workers: processes beside this one that recommend, each with the run in memory; 0: this one does.

    Raises:
        ConfigError: other machines could connect without a key.
        ArtifactError, StoreError: the run or the store cannot be used.
    """
    from lgsid.serve.engine import settle
    from lgsid.serve.histories.stores import open_store
    from lgsid.serve.versions import open_versions

    limits = checked(with_environment(config.limits, os.environ), host)
    limits = limits.model_copy(update={"runs_root": limits.runs_root or run.resolve().parent})
    config = config.model_copy(update={"limits": limits})
    configure_logging()
    holder = open_versions(run, config, workers)
    store = open_store(config.histories, run.resolve().parent)  # beside the run, so that the next one has them too
    settle()
    if not run_app(make_app(holder, store, config), host, port):
        log.error("some work did not end within limits.shutdown_seconds %g", limits.shutdown_seconds)
        sys.stdout.flush()
        os._exit(1)  # its threads would keep the process alive


def checked(limits: LimitConfig, host: str) -> LimitConfig:
    """Limits that fit the address: no open door by mistake, and the host names of this machine where it is alone.

    Raises:
        ConfigError: other machines could connect without a key.
    """
    if limits.keys_sha256:
        return limits
    if _is_this_machine(host):
        return limits if limits.hosts else limits.model_copy(update={"hosts": _THIS_MACHINE})
    if not limits.open_to_all:
        raise ConfigError(
            f"--host {host} lets other machines connect, and there are no API keys",
            f"export {KEYS_VARIABLE}=NAME=$({HASH_COMMAND} | cut -c1-64), or --set limits.open_to_all=true",
        )
    return limits


def _is_this_machine(host: str) -> bool:
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def run_app(app: FastAPI, host: str, port: int, started: Callable[[str], None] | None = None) -> bool:
    """Answer requests until SIGTERM or SIGINT; a second SIGINT does not wait for what was begun.

    Args:
        app: made by `make_app`.
        host, port: to listen on.
        started: told the address; None prints it.

    Returns:
        whether everything that was begun is finished.
    """
    service: Service = app.state.service
    limits = service.config.limits
    settings = uvicorn.Config(
        app,
        host=host.strip("[]"),
        port=port,
        log_config=None,
        access_log=False,  # it would write paths, which hold user ids
        server_header=False,
        ws="none",
        lifespan="on",
        proxy_headers=bool(limits.trusted_proxies),
        forwarded_allow_ips=list(limits.trusted_proxies),
        limit_concurrency=4 * limits.most_in_flight,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=max(1, round(limits.shutdown_seconds)),
    )
    server = _Server(settings, service, started or _print_address)
    before = {sig: signal.signal(sig, _ignore) for sig in _SIGNALS}  # uvicorn sends itself the signal again at its end
    try:
        server.run()
    finally:
        for sig, handler in before.items():
            signal.signal(sig, handler)
    return not service.unfinished


class _Server(uvicorn.Server):
    """Says when it listens, and lets proxies notice that it is about to stop before it does."""

    def __init__(self, config: uvicorn.Config, service: Service, started: Callable[[str], None]) -> None:
        super().__init__(config)
        self._service, self._tell, self._until = service, started, 0.0

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        if self.started:
            name = self.servers[0].sockets[0].getsockname()
            host = f"[{name[0]}]" if ":" in name[0] else name[0]
            self._tell(f"http://{host}:{name[1]}")

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        drain = self._service.config.limits.drain_seconds
        if sig == signal.SIGTERM and drain and not self._service.draining:
            self._until = time.monotonic() + drain
        else:
            super().handle_exit(sig, frame)
        self._service.draining = True

    async def on_tick(self, counter: int) -> bool:
        if self._until and time.monotonic() >= self._until:
            self.should_exit = True
        return await super().on_tick(counter)


def _ignore(sig: int, frame: FrameType | None) -> None:
    """The server has done what the signal asked for."""


def _print_address(address: str) -> None:
    print(f"serving on {address}", file=sys.stderr, flush=True)
