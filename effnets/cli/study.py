"""``effnets study``: experiments of the papers, repeated."""

from __future__ import annotations

import shlex
import sys
import time
from pathlib import Path

import click

from effnets.cli.format import load_network, make_table, print_table, printable, progress_bar, split_names

_NETWORKS = 30


@click.group(name="study")
def command() -> None:
    """Repeat experiments of the papers, with tables, plots, and conclusions that hold or not."""


@command.command(name="rank")
@click.argument("images", nargs=-1, metavar="[IMAGE|FOLDER…]")
@click.option("--output", type=click.Path(path_type=Path), help="New folder for tables, plot and summary.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the random networks.")
@click.option("--networks", type=click.IntRange(1), help=f"Random networks for each point [default: {_NETWORKS}].")
@click.option("--activations", help="Some of those below, as relu,silu [default: all].")
@click.option("--layers", help="Some of conv1x1, conv3x3, depthwise, inverted_bottleneck … [default: all].")
@click.option(
    "--threshold", type=float, default=0.03, show_default=True, help="Singular values above it, of the largest, count."
)
@click.option("--model", help="Measure this network over the IMAGES, instead of random ones.")
@click.option("--weights", help="For --model: a weights file, a tag, a folder of a training [default: the published].")
@click.option("--image-size", type=click.IntRange(1, 8192), help="For --model: side of the input [default: its own].")
def rank(
    images: tuple[str, ...],
    output: Path | None,
    seed: int,
    networks: int | None,
    activations: str | None,
    layers: str | None,
    threshold: float,
    model: str | None,
    weights: str | None,
    image_size: int | None,
) -> None:
    """Measure how many of its channels' dimensions a layer fills (ReXNet, arXiv:2007.00992, section 3).

    Of random networks, the mean rank of the features after the nonlinearity, by channel ratio d_in / d_out, for
    linear, relu, relu6, leaky_relu, elu, silu, hard_swish and gelu. Whether the paper's conclusions hold is printed and
    written. With --model, of a trained network over IMAGES, and those in folders, layer by layer.
    """
    if model is None:
        if images or weights is not None or image_size is not None:
            raise click.UsageError("IMAGES, --weights and --image-size are for a trained network; add --model NAME")
        if output is None:
            raise click.UsageError("name a new folder for the study: --output DIR")
        _study_random(output, seed, networks, activations, layers, threshold)
        return
    if networks is not None or activations is not None or layers is not None:
        raise click.UsageError("--networks, --activations and --layers are for random networks; leave out --model")
    if not images:
        raise click.UsageError("--model measures features of photographs; name some, or a folder of them")
    _study_trained(model, weights, images, image_size, threshold, output)


def _command_line() -> str:
    return shlex.join(["effnets", *sys.argv[1:]])


def _study_random(
    output: Path, seed: int, networks: int | None, activations: str | None, layers: str | None, threshold: float
) -> None:
    # Imported here and below: torch takes seconds, and neither --help nor a mistyped option should wait for it.
    from effnets.search.rank import ACTIVATIONS, LAYERS, RankSettings, study_ranks
    from effnets.search.rank_conclusions import check_conclusions
    from effnets.search.rank_report import random_study_files
    from effnets.search.study_folder import check_study_folder, write_study_folder

    settings = RankSettings(
        seed=seed,
        networks=_NETWORKS if networks is None else networks,
        activations=tuple(ACTIVATIONS) if activations is None else split_names(activations),
        layers=tuple(LAYERS) if layers is None else split_names(layers),
        threshold=threshold,
    )
    check_study_folder(output)
    begin, processor = time.monotonic(), time.process_time()
    with progress_bar() as progress:
        points = study_ranks(settings, progress)
    seconds, processor = time.monotonic() - begin, time.process_time() - processor
    files = random_study_files(settings, points, command=_command_line(), seconds=seconds, processor_seconds=processor)
    write_study_folder(output, files)
    for conclusion in check_conclusions(points, settings.threshold):
        click.echo(f"{'holds' if conclusion.holds else 'DOES NOT HOLD'}: {conclusion.claim}\n  {conclusion.found}")
    click.echo(
        printable(
            f"{output}: tables, plot and summary of {len(points)} points, in {seconds:.0f} s "
            f"({processor:.0f} s of processor time)"
        )
    )


def _study_trained(
    model: str,
    weights: str | None,
    images: tuple[str, ...],
    image_size: int | None,
    threshold: float,
    output: Path | None,
) -> None:
    from effnets.inference.image import find_photos

    photos = list(find_photos(images, lambda text: click.echo(printable(text), err=True)))
    if broken := [photo.error for photo in photos if photo.error]:
        raise click.ClickException(printable(str(broken[0])))

    from effnets.search.rank import THRESHOLDS, check_threshold
    from effnets.search.rank_report import trained_study_files
    from effnets.search.study_folder import check_study_folder, write_study_folder
    from effnets.search.trained_rank import layer_ranks

    check_threshold(threshold)
    if output is not None:
        check_study_folder(output)
    network = load_network(model, weights, answers="ranks")
    thresholds = list(dict.fromkeys((threshold, *THRESHOLDS)))
    begin = time.monotonic()
    with progress_bar() as progress:
        paths = [photo.path for photo in photos]
        ranks = layer_ranks(network, paths, input_size=image_size, thresholds=thresholds, progress=progress)
    right = ["channels", "in / out", "places", *[f"rank at {value:g} σ₁" for value in thresholds]]
    table = make_table(["layer", *right], right=right, whole=["layer"])
    for row in ranks:
        shown = [f"{value:.3f}{' *' if row.limited else ''}" for value in row.ranks]
        table.add_row(row.name, str(row.channels), f"{row.channel_ratio:.2f}", f"{row.samples:,}", *shown)
    print_table(table)
    if any(row.limited for row in ranks):
        click.echo("* fewer places in all images than channels: the ratio cannot reach 1; add images", err=True)
    if output is not None:
        seconds = time.monotonic() - begin
        files = trained_study_files(
            network.spec.name, ranks, thresholds, images=len(photos), command=_command_line(), seconds=seconds
        )
        write_study_folder(output, files)
        click.echo(printable(f"{output}: tables and summary"))
