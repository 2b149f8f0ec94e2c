"""The web application: the endpoints, the layers around them, and the page."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from fastapi import Depends, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.security import APIKeyHeader, HTTPBearer
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

from lgsid import __version__
from lgsid.config.serve import ServeConfig
from lgsid.errors import LgsidError
from lgsid.serve import endpoints, operations, schemas
from lgsid.serve.base import HistoryStore
from lgsid.serve.direct import Direct
from lgsid.serve.failures import Refusal, answer_error, invalid
from lgsid.serve.limits import Guard
from lgsid.serve.page_endpoints import add_page
from lgsid.serve.service import EngineHolder, Service
from lgsid.serve.telemetry import Watch

WEB = Path(__file__).parent / "web"
_ABOUT = "Recommends what is reachable first and interesting second, by geographic semantic IDs."
_REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"model": schemas.ProblemAnswer, "description": words}
    for status, words in {
        400: "The body is not JSON.",
        401: "The key is missing or not known.",
        404: "There is no such thing.",
        408: "The body took too long.",
        413: "The body is too large.",
        422: "A field is wrong.",
        429: "Too many requests of one key; see Retry-After.",
        500: "The service failed.",
        503: "Too much to do, or the store does not answer; see Retry-After.",
        507: "No space is left for events.",
    }.items()
}
_ADMIN_REFUSALS: dict[int | str, dict[str, Any]] = {
    **_REFUSALS,
    403: {"model": schemas.ProblemAnswer, "description": "The admin endpoints are off."},
    409: {"model": schemas.ProblemAnswer, "description": "The operation is refused; nothing has changed."},
}


def make_app(holder: EngineHolder, store: HistoryStore, config: ServeConfig, web: Path = WEB) -> FastAPI:
    """A service over loaded versions and a store, which it closes when it ends.

    Args:
        holder: says which engine answers.
        store: users' histories.
        config: limits, defaults, page.
        web: folder of the page's files; without it, / says where the interface is described.
    """
    service = Service.of(holder, store, config)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        service.draining = True
        await service.close()

    app = FastAPI(
        title="lgsid", version=__version__, description=_ABOUT, lifespan=lifespan,
        docs_url=None, redoc_url=None,  # these pages load scripts from elsewhere
        redirect_slashes=False,
    )  # fmt: skip
    app.state.service = service
    either = [
        Depends(APIKeyHeader(name="X-API-Key", auto_error=False, scheme_name="key")),
        Depends(HTTPBearer(auto_error=False, scheme_name="bearer")),
    ]  # for OpenAPI alone; `Guard` checks keys before the body is read
    app.include_router(endpoints.api, dependencies=either, responses=_REFUSALS)
    app.include_router(endpoints.watch)
    app.include_router(operations.admin, dependencies=either, responses=_ADMIN_REFUSALS)
    _page(app, web)
    _errors(app)
    _layers(app, service)
    return app


def _page(app: FastAPI, web: Path) -> None:
    add_page(app)
    if web.is_dir():
        app.mount("/", _Files(directory=web, html=True), name="page")
        return

    @app.get("/", include_in_schema=False)
    async def about() -> Response:
        return endpoints.json_of('{"lgsid": "the interface is described in /openapi.json"}')


class _Files(StaticFiles):
    """Files that browsers keep, and ask about before they use them again."""

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        response = super().file_response(*args, **kwargs)
        response.headers["Cache-Control"] = "no-cache"
        return response


def _errors(app: FastAPI) -> None:
    async def wrong(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return await answer_error(request, invalid(error.errors()))

    app.add_exception_handler(RequestValidationError, wrong)
    for kind in (Refusal, LgsidError, HTTPException):
        app.add_exception_handler(kind, answer_error)


def _layers(app: FastAPI, service: Service) -> None:
    """Innermost first."""
    limits = service.config.limits
    app.add_middleware(Direct, service=service)
    app.add_middleware(Guard, config=limits, telemetry=service.telemetry)
    if limits.origins:
        headers = ["Authorization", "Content-Type", "X-API-Key", "X-Request-ID"]
        app.add_middleware(
            CORSMiddleware,
            allow_origins=limits.origins,
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=headers,
            expose_headers=["X-Request-ID", "Retry-After"],
        )
    app.add_middleware(
        Watch,
        telemetry=service.telemetry,
        headers=security_headers(service.config.page.tiles_url),
        log_clients=limits.log_clients,
    )


def security_headers(tiles_url: str | None) -> Mapping[str, str]:
    """Headers of every answer: the page may load its own files and the operator's tiles, and nothing else."""
    tiles = ""
    if tiles_url is not None:
        parts = urlsplit(tiles_url)
        tiles = f" {parts.scheme}://{parts.netloc}"
    policy = (
        "default-src 'none'; script-src 'self'; style-src 'self'; font-src 'self'; worker-src 'self'; "
        f"img-src 'self' data:{tiles}; connect-src 'self'{tiles}; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return {
        "Content-Security-Policy": policy,
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Cache-Control": "no-store",
    }
