"""The command ``effnets``. Each subcommand is a file of its own, imported when it runs."""

from __future__ import annotations

import difflib
import errno
import importlib
import io
import sys
from typing import Any

import click

from effnets._version import __version__
from effnets.errors import EffnetsError

# Command → (module, and its function if not `command`; one line for --help, so that help imports none of them).
_COMMANDS = {
    "bench": ("effnets.cli.bench", "Measure models on this machine, against other libraries."),
    "choose": ("effnets.cli.choose", "Choose the most accurate network for a budget, by measuring."),
    "convert": ("effnets.cli.convert", "Write a weights file for another framework."),
    "demo": ("effnets.cli.demo", "See it work: classify, fine-tune, export, compare engines, without network."),
    "doctor": ("effnets.cli.doctor", "Say what data or a checkpoint is, and how to go on."),
    "duplicates": ("effnets.cli.duplicates", "Find copies of photos: saved again, resized, cropped."),
    "embed": ("effnets.cli.embed", "Write a vector for each photo, to find similar ones."),
    "eval": ("effnets.cli.eval", "Measure accuracy on labeled images, and compare."),
    "export": ("effnets.cli.export", "Write a model as one verified file, for a server, browser or phone."),
    "finetune": ("effnets.cli.training:finetune_command", "Fine-tune a pretrained network on images by class."),
    "list": ("effnets.cli.list", "List models with their parameters, multiply-adds and input size."),
    "predict": ("effnets.cli.predict", "Classify photographs."),
    "prefetch": ("effnets.cli.prefetch", "Fetch published weights into the cache, for use without network."),
    "scale": ("effnets.cli.scale", "Scale a network to a budget by width and resolution."),
    "search": ("effnets.cli.search", "Search a space of networks for what is accurate on your data."),
    "serve": ("effnets.cli.serve", "Serve a model over HTTP."),
    "show": ("effnets.cli.show", "Show a model's stages: shapes, kernels, costs, block strings."),
    "study": ("effnets.cli.study", "Repeat experiments of the papers, such as ranks of layers."),
    "train": ("effnets.cli.training:train_command", "Train a network by a recipe."),
    "similar": ("effnets.cli.similar", "Find the photos that are most like others."),
    "tune": ("effnets.cli.tune", "Find the fastest way to execute a model on this machine."),
}


class _LazyGroup(click.Group):
    """A group that imports a command only to run it."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in _COMMANDS:
            return None
        module, _, attribute = _COMMANDS[cmd_name][0].partition(":")
        command = getattr(importlib.import_module(module), attribute or "command")
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        near = difflib.get_close_matches(args[0], _COMMANDS, n=1)
        if args[0] not in _COMMANDS and near:
            ctx.fail(f"no command {args[0]!r}; did you mean {near[0]!r}?")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, _COMMANDS[name][1]) for name in self.list_commands(ctx)])

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except EffnetsError as error:
            raise click.ClickException(str(error)) from None
        except OSError as error:
            if error.errno == errno.EPIPE:  # the reader closed the pipe, which click handles
                raise
            raise click.ClickException(f"output or input failed: {error.strerror or error}") from None


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="effnets")
def main() -> None:
    """Efficient image classifiers: MobileNetV1, MobileNetV2, MixNet, ReXNet."""
    # A terminal or pipe that cannot write × gets its code rather than an error.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
