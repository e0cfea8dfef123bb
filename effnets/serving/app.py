"""The ASGI application: routes, errors as JSON, metrics."""

from __future__ import annotations

import json
import logging
import time
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from effnets.serving.metrics import Metrics
from effnets.serving.openapi import describe_api, docs_page
from effnets.serving.pool import BusyError, ReplicaLostError, ReplicaPool
from effnets.serving.replica import EncodedImage
from effnets.serving.request import Limits, RequestReader

_RETRY_AFTER = {"Retry-After": "1"}
_CLIENT_GONE = 499  # as nginx counts it; nobody receives it

log = logging.getLogger(__name__)


def create_app(pool: ReplicaPool, reader: RequestReader, limits: Limits, metrics: Metrics, *, urls: bool) -> Starlette:
    """Return the application; `urls` says whether `reader` fetches images by their address."""
    api = describe_api(limits, urls=urls)
    page = docs_page(api)

    async def predict(request: Request) -> Response:
        started = time.perf_counter()
        try:
            response = await _predict(request, pool, reader, metrics)
        except Exception as error:
            response = _error_response(error)
        metrics.requests.labels(response.status_code).inc()
        metrics.seconds.observe(time.perf_counter() - started)
        return response

    async def health(_request: Request) -> Response:
        return _json({"status": "alive"})

    async def ready(_request: Request) -> Response:
        if not pool.ready:
            return _error_response(BusyError("no replica is ready; one is being started, ask again later"))
        return _json({"status": "ready", "model": pool.model.name, "engine": pool.model.engine, "replicas": pool.ready})

    async def show_metrics(_request: Request) -> Response:
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    async def openapi(_request: Request) -> Response:
        return _json(api)

    async def docs(_request: Request) -> Response:
        return HTMLResponse(page)

    return Starlette(
        routes=[
            Route("/predict", predict, methods=["POST"]),
            Route("/health", health),
            Route("/ready", ready),
            Route("/metrics", show_metrics),
            Route("/openapi.json", openapi),
            Route("/docs", docs),
        ],
        exception_handlers={HTTPException: lambda _request, error: _error_response(error)},
    )


async def _predict(request: Request, pool: ReplicaPool, reader: RequestReader, metrics: Metrics) -> Response:
    topk = _topk(request)
    with reader.memory() as take:
        entries = await reader.read(request, take)
        images = [entry for entry in entries if isinstance(entry, EncodedImage)]
        answers = iter(await pool.classify(images, topk))
    results = [next(answers) if isinstance(entry, EncodedImage) else entry for entry in entries]
    unreadable = [result.error for result in results if result.error]
    metrics.images.labels("unreadable").inc(len(unreadable))
    metrics.images.labels("classified").inc(len(results) - len(unreadable))
    if unreadable and len(results) == 1:
        raise HTTPException(422, unreadable[0])
    return _json([result.to_dict() for result in results])


def _topk(request: Request) -> int:
    for name in request.query_params:
        if name != "topk":
            raise HTTPException(400, f"the query parameter {name!r} is unknown; the only one is topk")
    text = request.query_params.get("topk", "5")
    if not (text.isascii() and text.isdigit() and len(text) <= 6 and int(text)):
        raise HTTPException(400, f"topk is {text!r}; ask for a whole number of predictions, at least 1")
    return int(text)


def _error_response(error: Exception) -> Response:
    """The answer to a request that failed; what the client is not to blame for is logged."""
    if isinstance(error, HTTPException):
        message = _STATUS_MESSAGES.get(error.status_code, error.detail)
        return _json({"error": message}, error.status_code, dict(error.headers or {}))
    if isinstance(error, ClientDisconnect):
        return _json({"error": "the client has gone"}, _CLIENT_GONE)
    if isinstance(error, BusyError | ReplicaLostError):
        return _json({"error": str(error)}, 503, _RETRY_AFTER)
    log.error("a request failed", exc_info=error)
    return _json({"error": f"the server failed at this: {error or type(error).__name__}; its log has more"}, 500)


# Starlette's own words for these are a bare phrase.
_STATUS_MESSAGES = {
    404: "there is nothing at this path; /docs lists what there is",
    405: "this path does not take this method; /docs lists what there is",
}


def _json(content: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    # As ASCII, like `effnets predict --json`: names may hold what UTF-8 cannot encode.
    return Response(json.dumps(content), status, headers, media_type="application/json")
