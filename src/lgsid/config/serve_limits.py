"""Options of stage 6: who may ask, how often, and how much work the service takes on before it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, field_validator

from lgsid.config.base import Strict

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
"""A key's SHA-256 in hexadecimal: the key itself stands in no file."""


class LimitConfig(Strict):
    """Keys, rates, queues, sizes and times."""

    keys_sha256: dict[Annotated[str, Field(pattern=r"^[\w.-]{1,64}$")], Sha256] = Field(default_factory=dict)
    """API keys by the name under which logs and metrics know them; more come from LGSID_API_KEYS_SHA256, written
    name=hash,name=hash. Without any, nobody needs a key and only this machine may connect."""
    admin_sha256: Sha256 | None = None
    """The key of the admin endpoints, or LGSID_ADMIN_KEY_SHA256; without one they are off."""
    open_to_all: bool = False
    """Answer other machines although there are no keys."""
    requests_per_second: float = Field(default=200.0, gt=0)
    """Of each key, in the long run; where there are no keys, of each client address."""
    burst: int = Field(default=400, ge=1)
    """Requests that a key may send at once after a pause."""
    threads: int = Field(default=2, ge=1)
    """Requests that are worked on at the same time; more than there are cores makes each one slower."""
    event_threads: int = Field(default=16, ge=1)
    """Appends of events that wait for the store at the same time; they share its writes to the disk."""
    queue: int = Field(default=64, ge=0)
    """Requests that may wait for a thread; more are refused with 503."""
    queue_seconds: float = Field(default=1.0, gt=0)
    """Longest wait for a thread; what has waited longer is refused with 503 and not begun."""
    request_seconds: float = Field(default=10.0, gt=0)
    """Longest time until an answer, 503 after that."""
    admin_seconds: float = Field(default=600.0, gt=0)
    """The same for admin endpoints: loading a version takes a while."""
    most_in_flight: int = Field(default=512, ge=1)
    """Requests whose bodies are kept in memory at the same time, waiting ones included; more are refused with 503."""
    most_body_bytes: int = Field(default=1_048_576, ge=1)
    """Size of a request's body; 413 above it."""
    most_admin_body_bytes: int = Field(default=16_777_216, ge=1)
    """The same for admin endpoints: new items come in bulk."""
    body_seconds: float = Field(default=10.0, gt=0)
    """Longest time for a request's body to arrive; 408 after that."""
    drain_seconds: float = Field(default=0.0, ge=0)
    """After SIGTERM, time during which requests are still taken while /readyz says no."""
    shutdown_seconds: float = Field(default=30.0, gt=0)
    """Time for what was begun to be finished."""
    hosts: tuple[str, ...] = ()
    """Host names that requests may be addressed to, without port; any where empty. A service without keys on
    127.0.0.1 takes the names of this machine alone, so that no web page can reach it under a name of its own."""
    origins: tuple[str, ...] = ()
    """Web origins whose pages may call the service (CORS), such as https://example.org; none where empty."""
    trusted_proxies: tuple[str, ...] = ()
    """Addresses whose X-Forwarded-For is believed."""
    log_clients: bool = False
    """Write client addresses to the access log; they are personal data."""
    runs_root: Path | None = None
    """Folder below which admin endpoints may load runs; the served run's parent where it is not given."""


class PageConfig(Strict):
    """The map page."""

    tiles_url: str | None = None
    """Where the page takes its background map from, such as https://tiles.example.org/{z}/{x}/{y}.png. Without one
    the page has no background, and no request leaves the machine."""
    tiles_attribution: str = ""
    """Text that the tiles' owner wants to be shown."""

    @field_validator("tiles_url")
    @classmethod
    def _template(cls, url: str | None) -> str | None:
        if url is None:
            return None
        missing = [part for part in ("{z}", "{x}", "{y}") if part not in url]
        host = url.partition("://")[2].partition("/")[0]
        if missing or not url.startswith(("https://", "http://")) or not host or set(host) & set("{}*;,' \""):
            raise ValueError(f"{url!r}: expected http(s)://HOST/… with {{z}}, {{x}} and {{y}} after the host")
        return url
