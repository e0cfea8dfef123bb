"""What clients may send and what they get: the server's OpenAPI document, and a page that shows it without scripts."""

from __future__ import annotations

from html import escape
from typing import Any

from effnets._version import __version__
from effnets.serving.request import Limits

_PREDICTION = {
    "type": "object",
    "required": ["index", "label", "probability"],
    "properties": {
        "index": {"type": "integer", "minimum": 0, "description": "Number of the class."},
        "label": {"type": "string", "description": "Name of the class."},
        "probability": {"type": "number", "minimum": 0, "maximum": 1},
    },
    "additionalProperties": False,
}
_RESULT = {
    "type": "object",
    "required": ["path"],
    "properties": {
        "path": {"type": "string", "description": "The file's name, the address, or body."},
        "predictions": {
            "type": "array",
            "items": {"$ref": "#/components/schemas/Prediction"},
            "description": "The likeliest classes, the likeliest first.",
        },
        "error": {"type": "string", "description": "Why the image cannot be read, and what to do."},
    },
    "oneOf": [{"required": ["predictions"]}, {"required": ["error"]}],
    "additionalProperties": False,
}
_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {"error": {"type": "string", "description": "What is wrong, and what to do."}},
    "additionalProperties": False,
}
_URLS = {
    "type": "object",
    "oneOf": [{"required": ["url"]}, {"required": ["urls"]}],
    "properties": {
        "url": {"type": "string", "format": "uri"},
        "urls": {"type": "array", "items": {"type": "string", "format": "uri"}, "minItems": 1},
    },
    "additionalProperties": False,
}


def describe_api(limits: Limits, *, urls: bool) -> dict[str, Any]:
    """Return the OpenAPI document; `urls` says whether images are fetched by their address."""
    megabytes, seconds = f"{limits.body / 1e6:g} MB", f"{limits.timeout:g} s"
    binary = {"schema": {"type": "string", "format": "binary"}}
    form = {"type": "object", "minProperties": 1, "additionalProperties": {"type": "string", "format": "binary"}}
    content: dict[str, Any] = {
        "multipart/form-data": {"schema": form},
        "image/*": binary,
        "application/octet-stream": binary,
    }
    if urls:
        content["application/json"] = {"schema": _URLS}
    failures = {
        400: "The form, the JSON or a query parameter is not as it must be.",
        403: "The address of an image is not allowed.",
        408: f"The body did not arrive within {seconds}.",
        413: f"The body is larger than {megabytes}, or has more than {limits.images} images.",
        415: "The media type is not one of these.",
        422: f"The only image cannot be read, or has more than {limits.pixels / 1e6:g} million pixels.",
        500: "The model failed.",
        503: f"The server is busy, lost the process at work, or took longer than {seconds}. Ask again later.",
    }
    retry = {"Retry-After": {"schema": {"type": "integer"}, "description": "Seconds to wait."}}
    predict = {
        "summary": "Classify images",
        "description": f"At most {limits.images} images in {megabytes}, each in a field of any name, or as the body.",
        "operationId": "predict",
        "parameters": [
            {
                "name": "topk",
                "in": "query",
                "description": "Predictions for each image; all classes if there are fewer.",
                "schema": {"type": "integer", "minimum": 1, "maximum": 999_999, "default": 5},
            }
        ],
        "requestBody": {"required": True, "content": content},
        "responses": {
            "200": {
                "description": "A result for each image, in order.",
                "content": _content({"type": "array", "items": {"$ref": "#/components/schemas/Result"}}),
            },
            **{str(status): _failure(text, retry if status == 503 else None) for status, text in failures.items()},
        },
    }
    status = {"type": "object", "required": ["status"], "properties": {"status": {"type": "string"}}}
    model = {"model": {"type": "string"}, "engine": {"type": "string"}, "replicas": {"type": "integer"}}
    loaded = {**status, "properties": {**status["properties"], **model}}  # type: ignore[dict-item]
    return {
        "openapi": "3.1.0",
        "info": {"title": "effnets", "version": __version__, "description": "Classify images."},
        "paths": {
            "/predict": {"post": predict},
            "/health": {"get": _get("Whether the server is alive", "It is.", _content(status))},
            "/ready": {
                "get": _get(
                    "Whether a replica can work", "One can.", _content(loaded), {"503": _failure("None can.", retry)}
                )
            },
            "/metrics": {"get": _get("Metrics for Prometheus", "They are.", {"text/plain": _TEXT})},
            "/openapi.json": {"get": _get("This document", "It is.", _content({"type": "object"}))},
            "/docs": {"get": _get("This document as a page", "It is.", {"text/html": _TEXT})},
        },
        "components": {"schemas": {"Prediction": _PREDICTION, "Result": _RESULT, "Error": _ERROR}},
    }


_TEXT = {"schema": {"type": "string"}}


def _content(schema: Any) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


def _failure(text: str, headers: Any = None) -> dict[str, Any]:
    content = _content({"$ref": "#/components/schemas/Error"})
    return {"description": text, "content": content, **({"headers": headers} if headers else {})}


def _get(summary: str, text: str, content: Any, more: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"summary": summary, "responses": {"200": {"description": text, "content": content}, **(more or {})}}


def docs_page(api: dict[str, Any]) -> str:
    """Return the document as HTML; it loads nothing."""
    parts = [
        f"<h1>effnets {escape(__version__)}</h1><p>The same for programs: <a href=openapi.json>openapi.json</a>.</p>"
    ]
    for path, methods in api["paths"].items():
        for method, operation in methods.items():
            rows = "".join(
                f"<tr><td>{status}<td>{escape(response['description'])}"
                for status, response in operation["responses"].items()
            )
            body = operation.get("requestBody", {}).get("content", {})
            kinds = f"<p>Takes {escape(', '.join(body))}.</p>" if body else ""
            query = "".join(
                f"<p>?{escape(one['name'])}={one['schema']['default']}: {escape(one['description'])}</p>"
                for one in operation.get("parameters", ())
            )
            parts.append(
                f"<h2>{method.upper()} {path}</h2><p>{escape(operation['summary'])}. "
                f"{escape(operation.get('description', ''))}</p>{kinds}{query}<table>{rows}</table>"
            )
    style = "body{font-family:sans-serif;max-width:50em;margin:2em auto}td{padding:.2em 1em;vertical-align:top}"
    head = f"<meta charset=utf-8><title>effnets</title><style>{style}</style>"
    return f"<!doctype html><html lang=en><head>{head}</head><body>{''.join(parts)}</body></html>"
