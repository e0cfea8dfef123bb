"""``effnets search``."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from effnets.cli.format import COUNT, LATENCY, MEMORY, make_table, print_table, printable, progress_bar
from effnets.errors import TrainingInterruptedError

if TYPE_CHECKING:
    from effnets.search.search import SearchResult

# Options that --propose takes as well.
_ARITHMETIC = ("max_params", "max_madds", "max_memory", "min_share", "seed", "output")


@click.command(name="search")
@click.argument("space")
@click.argument("data", required=False)
@click.option("--output", type=click.Path(path_type=Path, file_okay=False), help="New folder for the result.")
@click.option(
    "--strategy",
    type=click.Choice(["trials", "oneshot"]),
    default="trials",
    show_default=True,
    help="Train each candidate, or once a supernet whose weights all share.",
)
@click.option(
    "--sampler",
    type=click.Choice(["nsga2", "tpe", "random"]),
    default="nsga2",
    show_default=True,
    help="Evolution for accuracy and cost at once, a model of what is accurate, or chance.",
)
@click.option("--evaluations", type=click.IntRange(1), default=50, show_default=True, help="Candidates to evaluate.")
@click.option(
    "--minimize",
    type=click.Choice(["madds", "params", "latency", "none"]),
    help="The cost set against accuracy [default: madds; none with tpe].",
)
@click.option("--max-madds", type=COUNT, help="Multiply-adds for an image, as 30M.")
@click.option("--max-params", type=COUNT, help="Parameters, as 1.5M.")
@click.option("--max-memory", type=MEMORY, help="Feature maps of an image in float32, at their peak, as 2MB.")
@click.option("--max-latency", type=LATENCY, help="For one image on this machine, as 5ms; predicted, then measured.")
@click.option(
    "--min-share",
    type=click.FloatRange(0, 1, max_open=True),
    help="Share of every limit that candidates use at least [default: 0; 0.98 with --propose].",
)
@click.option("--recipe", default="cifar10_demo", show_default=True, help="Of all trainings: a name or YAML file.")
@click.option("--epochs", type=click.IntRange(1), help="Of each candidate [3], or of the supernet [the recipe's].")
@click.option("--final-epochs", type=click.IntRange(0), help="Of the best network, 0: none [default: the recipe's].")
@click.option("--prune", is_flag=True, help="End trainings below the median of others; with --minimize none.")
@click.option("--random-baseline", is_flag=True, help="Evaluate as many at random, to compare with.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of samplers and trainings.")
@click.option("--resume", is_flag=True, help="Continue the search in the folder, if there is one.")
@click.option("--storage", help="Of a database that several workers share, as sqlite:///search.db.")
@click.option("--engine", default="auto", help="For latency: onnxruntime, openvino … [default: the first installed].")
@click.option("--threads", type=click.IntRange(1), help="Threads of the engine [default: its own choice].")
@click.option("--propose", type=click.IntRange(1), help="Only print so many networks that use the limits; no DATA.")
def command(space: str, data: str | None, output: Path | None, propose: int | None, **options: Any) -> None:
    """Search SPACE for the networks that are most accurate on DATA within hard limits on what they cost.

    SPACE is mixconv, rexnet, or a YAML file of your own: a model whose block strings offer choices, as k{3|3.5|3.5.7}.
    DATA is what finetune takes. OUTPUT then holds the front of accuracy against cost as YAML models, a table of all
    candidates, plots, and in best/ the best network, trained. Killed at any moment, --resume continues.
    """
    if propose is not None:
        if data is not None:
            raise click.UsageError("--propose is arithmetic alone and needs no DATA; leave out one of them")
        ignored = [name for name, value in options.items() if name not in _ARITHMETIC and _is_given(name)]
        if ignored:
            names = ", ".join(f"--{name.replace('_', '-')}" for name in ignored)
            raise click.UsageError(f"--propose is arithmetic alone and has no use for {names}")
        _propose(space, propose, output, options)
        return
    if data is None:
        raise click.UsageError("name the DATA to be accurate on; or --propose 10 for networks by arithmetic alone")
    if output is None:
        raise click.UsageError("name a new folder for the result: --output DIR")
    _search(space, data, output, options)


def _is_given(name: str) -> bool:
    source = click.get_current_context().get_parameter_source(name)
    return source is not click.core.ParameterSource.DEFAULT


def _search(space: str, data: str, output: Path, options: dict[str, Any]) -> None:
    # Imported here: torch takes seconds, and neither --help nor a mistyped option should wait for it.
    from effnets.search.search import search
    from effnets.search.search_report import describe_space
    from effnets.search.space import read_space
    from effnets.utils.machine import keep_freed_memory

    keep_freed_memory()
    minimize: Any = options.pop("minimize") or ("none" if options["sampler"] == "tpe" or options["prune"] else "madds")
    options["min_share"] = options["min_share"] or 0.0
    read = read_space(space)
    try:
        with progress_bar() as progress:
            found = search(
                read,
                data,
                output,
                minimize=None if minimize == "none" else minimize,
                progress=progress,
                command=_command_line(options["storage"]),
                **options,
            )
    except TrainingInterruptedError as interruption:
        click.echo(str(interruption), err=True)
        sys.exit(128 + interruption.signal)
    click.echo(f"{read.name}: {describe_space(read, len(found.evaluated))}")
    _print_front(found)
    if found.trained is not None:
        test = found.trained.test_top1
        click.echo(
            f"best, trained: {found.trained.val_top1:.2f} % on validation"
            f"{'' if test is None else f', {test:.2f} % on test'}"
        )
    click.echo(printable(f"{output}: the front as models, tables and plots; README.md sums up"))


def _command_line(storage: str | None) -> str:
    """The command, without what an URL of a database may hold."""
    arguments = sys.argv[1:]
    if storage is not None:
        arguments = [argument.replace(storage, "URL") for argument in arguments]
    return shlex.join(["effnets", *arguments])


def _print_front(found: SearchResult) -> None:
    right = ["top-1 %", "parameters", "multiply-adds", "latency"]
    table = make_table(["", "model", *right], right=right, whole=["model"])
    for number, one in enumerate(found.front, start=1):
        latency = one.candidate.latency
        table.add_row(
            "→" if one is found.best else "",
            f"front/{one.candidate.spec.name}_{number}.yaml",
            f"{one.accuracy:.2f}",
            f"{one.candidate.params / 1e6:.3f} M",
            f"{one.candidate.madds / 1e6:.2f} M",
            "–" if latency is None else f"{latency:.2f} ms",
        )
    print_table(table)


def _propose(space: str, count: int, output: Path | None, options: dict[str, Any]) -> None:
    from effnets.search.propose import BUDGET_SHARE, propose
    from effnets.search.space import read_space

    read = read_space(space)
    share = BUDGET_SHARE if options["min_share"] is None else options["min_share"]
    limits = {name: options[name] for name in ("max_params", "max_madds", "max_memory")}
    found = propose(read, count, min_share=share, seed=options["seed"], output=output, **limits)
    names = [choice.name for choice in read.choices]
    right = ["parameters", "multiply-adds"]
    table = make_table([*right, *names], right=right)
    for candidate in found:
        chosen = read.describe(candidate.picks)
        table.add_row(
            f"{candidate.params / 1e6:.3f} M", f"{candidate.madds / 1e6:.2f} M", *(str(chosen[name]) for name in names)
        )
    print_table(table)
    click.echo(f"{read.name}: {len(found)} of {read.size:,} candidates proposed")
    if output is not None:
        click.echo(printable(f"{output}: the proposals as models"))
