"""``effnets study``: experiments of the papers, repeated."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from effnets.cli.format import COUNT, load_network, make_table, print_table, printable, progress_bar, split_names
from effnets.errors import TrainingInterruptedError

if TYPE_CHECKING:
    from effnets.search.channels import ChannelRun
    from effnets.search.kernels import KernelRun

Run = TypeVar("Run", "KernelRun", "ChannelRun")

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


@command.command(name="kernels")
@click.argument("data")
@click.option("--output", type=click.Path(path_type=Path), required=True, help="Folder of the study.")
@click.option("--figures", help="Some of 1, 4, 5, 6, as 1,4 [default: all].")
@click.option("--networks", help="Some of mobilenetv1, mobilenetv2 [default: both].")
@click.option("--width", type=click.FloatRange(0.1, 2), help="Multiplier of all channels [default: 0.25].")
@click.option("--largest", type=click.Choice(["5", "7", "9", "11"]), help="Largest kernel [default: 11].")
@click.option("--layers", type=click.IntRange(1), help="Of figure 5: how many layers are tried [default: 6].")
@click.option("--seeds", type=click.IntRange(1), help="Trainings of every network [default: 3].")
@click.option("--epochs", type=click.IntRange(1), help="Passes over the images [default: the recipe's].")
@click.option("--recipe", default="cifar10_demo", show_default=True, help="A recipe's name or YAML file.")
@click.option("--resume", is_flag=True, help="Continue a study in OUTPUT; also with more figures, layers or seeds.")
def kernels(
    data: str,
    output: Path,
    figures: str | None,
    networks: str | None,
    largest: str | None,
    epochs: int | None,
    recipe: str,
    resume: bool,
    **options: float | int | None,
) -> None:
    """Compare depthwise kernels of 3×3 to 11×11, plain and mixed (MixConv, arXiv:1907.09595, figures 1, 4, 5 and 6).

    Networks like MobileNetV1 and V2 for 32 pixels are trained from scratch on DATA, as of `effnets train`, with several
    seeds. OUTPUT gets a table of all trainings, plots, and what became of the paper's claims. SIGTERM and Ctrl-C save
    everything and exit with status 143 and 130.
    """
    settings: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    if figures is not None:
        try:
            settings["figures"] = tuple(int(name) for name in split_names(figures))
        except ValueError:
            raise click.UsageError(f"--figures is {figures!r}; write some of 1, 4, 5, 6, as 1,4") from None
    if networks is not None:
        settings["networks"] = tuple(split_names(networks))
    if largest is not None:
        settings["largest"] = int(largest)
    _study_kernels(data, output, settings, recipe, {} if epochs is None else {"epochs": epochs}, resume=resume)


def _study_kernels(
    data: str, output: Path, values: dict[str, Any], recipe: str, changes: dict[str, Any], *, resume: bool
) -> None:
    from effnets.search.kernel_claims import check_claims
    from effnets.search.kernels import KernelSettings, left_out, list_variants, study_kernels
    from effnets.search.kernels_report import kernel_study_files
    from effnets.search.study_folder import check_study_folder, write_study_files
    from effnets.train.recipe import find_recipe, read_recipe

    settings = KernelSettings(**values)
    training = read_recipe(find_recipe(recipe), changes)
    if not resume:
        check_study_folder(output)
    if narrow := left_out(settings):
        names = ", ".join(variant.name for variant in narrow)
        click.echo(f"note: too narrow for their kernels, and left out: {names}; raise --width", err=True)
    runs = _train_networks(
        len(list_variants(settings)) * settings.seeds,
        lambda **reports: study_kernels(settings, data, training, output, **reports),
        lambda run: run.variant.name,
    )
    write_study_files(output, kernel_study_files(settings, runs, recipe=training, data=data, command=_command_line()))
    for claim in check_claims(runs):
        click.echo(f"{claim.verdict}: figure {claim.figure}, {claim.network}: {claim.text} ({claim.found})")
    click.echo(printable(f"{output}: tables, plots and summary of {len(runs)} trainings"))


def _train_networks(planned: int, study: Callable[..., list[Run]], name: Callable[[Run], str]) -> list[Run]:
    """Call a study, with a bar and a line for each training; a signal ends the process with its exit status."""
    from effnets.utils.machine import keep_freed_memory

    keep_freed_memory()
    numbers = count(1)

    def on_run(run: Run) -> None:
        result = run.result
        text = f"{name(run)}, seed {run.seed}: {result.top1:.2f} %, {result.seconds:.0f} s"
        click.echo(f"{next(numbers)} of {planned}: {text}")

    try:
        with progress_bar() as progress:
            return study(progress=progress, on_run=on_run)
    except TrainingInterruptedError as interruption:
        click.echo(str(interruption), err=True)
        sys.exit(128 + interruption.signal)


@command.command(name="channels")
@click.argument("data")
@click.option("--output", type=click.Path(path_type=Path), required=True, help="Folder of the study.")
@click.option("--model", help="Skeleton with linear channels [default: rexnet_100_32px].")
@click.option("--width", type=click.FloatRange(0.1, 4), help="Multiplier of the skeleton's channels [default: 0.35].")
@click.option("--max-madds", type=COUNT, help="Budget of multiply-adds, as 40M [default: what the skeleton needs].")
@click.option("--max-params", type=COUNT, help="Budget of parameters, as 0.7M [default: likewise].")
@click.option("--samples", type=click.IntRange(0), help="Configurations drawn at random [default: 2].")
@click.option("--seeds", type=click.IntRange(1), help="Trainings of every configuration [default: 3].")
@click.option("--seed", type=click.IntRange(0), help="Of what is drawn [default: 0].")
@click.option("--epochs", type=click.IntRange(1), help="Passes over the images [default: the recipe's].")
@click.option("--recipe", default="cifar10_demo", show_default=True, help="A recipe's name or YAML file.")
@click.option("--resume", is_flag=True, help="Continue a study in OUTPUT.")
def channels(
    data: str, output: Path, epochs: int | None, recipe: str, resume: bool, **options: float | int | str | None
) -> None:
    """Compare linear channels with others within one budget (ReXNet, arXiv:2007.00992, section 4).

    A line, a bend early or late, bends at random, and MobileNetV2's staircase, fitted to the same multiply-adds and
    parameters, are trained from scratch on DATA with several seeds. OUTPUT gets tables, a plot, and whether the line is
    the best. SIGTERM and Ctrl-C save everything and exit with status 143 and 130.
    """
    settings = {name: value for name, value in options.items() if value is not None}
    _study_channels(data, output, settings, recipe, {} if epochs is None else {"epochs": epochs}, resume=resume)


def _study_channels(
    data: str, output: Path, values: dict[str, Any], recipe: str, changes: dict[str, Any], *, resume: bool
) -> None:
    from effnets.data.open import DataConfig, open_data
    from effnets.search.channels import ChannelSettings, list_configurations, study_channels
    from effnets.search.channels_report import channel_study_files, judge_channels
    from effnets.search.study_folder import check_study_folder, write_study_files
    from effnets.train.recipe import find_recipe, read_recipe

    training = read_recipe(find_recipe(recipe), changes)
    ChannelSettings(**values)
    if not resume:
        check_study_folder(output)
    classes = len(open_data(DataConfig(data, val_share=training.val_share)).class_names)
    settings = ChannelSettings(**values, num_classes=classes)
    configurations = list_configurations(settings)
    runs = _train_networks(
        len(configurations) * settings.seeds,
        lambda **reports: study_channels(configurations, data, training, output, seeds=settings.seeds, **reports),
        lambda run: run.configuration.name,
    )
    files = channel_study_files(settings, runs, epochs=training.epochs, data=data, command=_command_line())
    write_study_files(output, files)
    click.echo(str(judge_channels(runs)))
    click.echo(printable(f"{output}: table, plot and summary of {len(runs)} trainings"))


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
