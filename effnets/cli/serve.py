"""``effnets serve``."""

from __future__ import annotations

from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING

import click

from effnets.cli.eval import is_exported, possible_engines
from effnets.cli.format import load_network, printable

if TYPE_CHECKING:
    from effnets.engines.base import Engine
    from effnets.nn.classifier import Classifier
    from effnets.serving.replica import ServedModel

# Each has an interpreter, a model and memory of its own.
_MOST_REPLICAS = 8
_PACKAGES = ("httpx", "prometheus_client", "python_multipart", "starlette", "uvicorn")


@click.command(name="serve")
@click.argument("model", metavar="MODEL|FILE")
@click.option("--weights", help="Of MODEL: a weights file, a tag, or a folder of a training [default: the published].")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; 0.0.0.0 is all.")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0 takes a free one.")
@click.option("--engine", default="auto", show_default=True, help="onnxruntime, openvino, torch (rewritten), ….")
@click.option(
    "--replicas",
    type=click.IntRange(1, 256),
    help=f"Processes with the model [default: one for each core, at most {_MOST_REPLICAS}].",
)
@click.option("--threads", type=click.IntRange(1), help="Of each replica [default: its share of the cores].")
@click.option("--max-batch", type=click.IntRange(1, 1024), default=8, show_default=True, help="Images in a batch.")
@click.option(
    "--batch-wait-ms", type=click.FloatRange(0, 10_000), default=2, show_default=True, help="To wait for a full batch."
)
@click.option("--max-queue", type=click.IntRange(1), default=128, show_default=True, help="Images; above that 503.")
@click.option("--max-images", type=click.IntRange(1), default=32, show_default=True, help="In a request.")
@click.option(
    "--max-body-mb", type=click.FloatRange(0, 4096, min_open=True), default=20, show_default=True, help="Of a request."
)
@click.option(
    "--max-pixels", type=click.IntRange(1), default=50_000_000, show_default=True, help="Of an image; above that 422."
)
@click.option(
    "--timeout-s",
    type=click.FloatRange(0, 3600, min_open=True),
    default=30,
    show_default=True,
    help="For a request to arrive, and again for its answer.",
)
@click.option("--allow-urls", multiple=True, metavar="HOST[:PORT]", help="Fetch images from there, by their address.")
def command(
    model: str,
    weights: str | None,
    host: str,
    port: int,
    engine: str,
    replicas: int | None,
    threads: int | None,
    max_batch: int,
    batch_wait_ms: float,
    max_queue: int,
    max_images: int,
    max_body_mb: float,
    max_pixels: int,
    timeout_s: float,
    allow_urls: tuple[str, ...],
) -> None:
    """Answer POST /predict with the classes of images, by MODEL (a name of the zoo, a YAML file, a folder) or by FILE.

    FILE is an exported model. Send images as the body, or as files of a form:

        curl -F image=@photo.jpg http://127.0.0.1:8000/predict

    GET /docs describes it. SIGTERM and Ctrl-C answer what has arrived, and end the server.
    """
    if missing := [name for name in _PACKAGES if not find_spec(name)]:
        raise click.ClickException(f"serving needs {', '.join(missing)}; install with: pip install 'effnets[serve]'")
    if is_exported(model) and weights is not None:
        raise click.UsageError(f"{model} is a whole model; leave --weights out")
    possible = possible_engines(model) if is_exported(model) else ("auto", "torch", "torch-compile", "torch-cuda")
    if engine not in possible:
        hint = "" if is_exported(model) else f"; for others export it first: effnets export {model} model.onnx"
        raise click.UsageError(f"{model} is executed by {', '.join(possible)}, not by {engine}{hint}")
    if max_queue < max_images:
        raise click.UsageError(f"--max-queue {max_queue} has no room for the {max_images} of --max-images; raise it")
    from effnets.serving.request import Limits
    from effnets.serving.server import ServerOptions, bind, serve
    from effnets.utils.machine import cpu_count

    replicas = replicas or min(max(1, cpu_count() // (threads or 1)), _MOST_REPLICAS)
    threads = threads or max(1, cpu_count() // replicas)
    limits = Limits(
        body=int(max_body_mb * 1e6), images=max_images, pixels=max_pixels, queue=max_queue, timeout=timeout_s
    )
    options = ServerOptions(
        replicas=replicas,
        threads=threads,
        max_batch=max_batch,
        batch_wait=batch_wait_ms / 1000,
        limits=limits,
        hosts=allow_urls,
    )
    with bind(host, port) as listener:
        address = f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"

        def announce(served: ServedModel) -> None:
            text = f"{served.name} on {served.engine}, {served.classes} classes: {address}/predict; see {address}/docs"
            click.echo(printable(text), err=True)

        serve(partial(load, model, weights, engine, threads), listener, options, announce)
    click.echo("stopped", err=True)


def load(model: str, weights: str | None, engine: str, threads: int) -> Classifier | Engine:
    """Load the model in a replica, as `effnets predict` does."""
    if is_exported(model):
        from effnets.engines.base import load_file

        return load_file(model, engine, threads=threads)

    import torch

    torch.set_num_threads(threads)
    network = load_network(model, weights, answers="predictions")
    if engine == "auto":
        return network
    from effnets.deploy.engine import load_engine

    return load_engine(network, engine, threads=threads)
