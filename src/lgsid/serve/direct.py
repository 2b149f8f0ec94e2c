"""The short way to the endpoint that nearly all requests go to.

Looking for a route, resolving dependencies and reading a body are most of the time that FastAPI takes. A recommendation
that is asked for as the schema says is answered here, by the same function; everything else goes on to FastAPI, which
says what is wrong with it.
"""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import ValidationError
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from lgsid.errors import LgsidError
from lgsid.serve.endpoints import recommend
from lgsid.serve.failures import Refusal, answer_error
from lgsid.serve.limits import replay
from lgsid.serve.schemas import RecommendRequest
from lgsid.serve.service import Service


@dataclass(frozen=True)
class _Route:
    path: str


RECOMMEND = _Route("/v1/recommend")


class Direct:
    """Innermost layer: recommendations; the body has to be there in one piece, as `Guard` gives it."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app, self._service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request of ASGI."""
        if not _is_recommend(scope):
            await self._app(scope, receive, send)
            return
        body = (await receive()).get("body", b"")
        try:
            asked = RecommendRequest.model_validate_json(body)
        except ValidationError:
            await self._app(scope, replay(body, receive), send)
            return
        request, scope["route"] = Request(scope), RECOMMEND
        try:
            response = await recommend(asked, request, self._service)
        except (Refusal, LgsidError) as error:
            response = await answer_error(request, error)
        await response(scope, receive, send)


def _is_recommend(scope: Scope) -> bool:
    if scope["type"] != "http" or scope["method"] != "POST" or scope["path"] != RECOMMEND.path:
        return False
    return Headers(scope=scope).get("content-type", "").partition(";")[0].strip().lower() == "application/json"
