"""A search as files: the front as YAML models, a table of all candidates, plots, and a summary with the command."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from effnets.errors import ExportError
from effnets.search.candidates import Candidate
from effnets.search.evaluations import CostName, Evaluation
from effnets.search.search_plots import draw_channels, draw_front, draw_kernels
from effnets.search.space import SearchSpace
from effnets.search.study_folder import csv_text, markdown_table
from effnets.search.trainings import TrainingResult
from effnets.spec.entries import encode_entry
from effnets.spec.plan import make_plan
from effnets.spec.scaling import COST_UNITS, ScaleLimits
from effnets.utils.atomic_file import write_whole
from effnets.utils.atomic_folder import new_folder

FRONT = "front"


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchRecord:
    """All that the result of a search says.

    Attributes:
        space, limits: of the search. cost: what the front sets against accuracy.
        evaluated: in their order. front: of these. best: of these. random: evaluations of the baseline.
        latencies: measured milliseconds by picks. engine: that measured them.
        settings: of the search, by name. command: that started it. epochs: of each candidate, or of the supernet.
        trained: of the best network, with `final_epochs`.
    """

    space: SearchSpace
    limits: ScaleLimits
    cost: CostName
    evaluated: Sequence[Evaluation]
    front: Sequence[Evaluation]
    best: Evaluation
    random: Sequence[Evaluation]
    latencies: Mapping[tuple[int, ...], float]
    engine: str | None
    settings: Mapping[str, Any]
    command: str | None
    epochs: int
    trained: TrainingResult | None = None
    final_epochs: int | None = None


def write_search(folder: Path, record: SearchRecord) -> None:
    """Write or replace the result in `folder`, each file whole; raises ExportError if that fails."""
    files = {
        "candidates.csv": _table(record),
        "front.svg": draw_front(record.evaluated, record.front, record.random, record.cost),
        "README.md": _summary(record),
    }
    networks = [one.candidate.spec for one in (record.best, *record.front)]
    sizes = {conv.kernel_size for spec in networks for block in make_plan(spec).blocks for conv in block.convolution}
    if len(sizes) > 1:
        files["kernels.svg"] = draw_kernels(networks[0], networks[1:])
    if networks[0].channels is not None:
        files["channels.svg"] = draw_channels(networks[0], networks[1:])
    try:
        with new_folder(folder / FRONT) as front:
            for number, one in enumerate(record.front, start=1):
                (front / f"{_name(record, number)}.yaml").write_text(_model(record, number, one), encoding="utf-8")
        for name, text in files.items():
            write_whole(folder / name, text.encode())
    except OSError as error:
        raise ExportError(f"{folder}: cannot be written ({error.strerror or error})") from None


def model_text(candidate: Candidate, name: str, comment: str) -> str:
    """Return a file of one model, with a comment above it."""
    entry = {name: encode_entry(replace(candidate.spec, name=name))}
    return f"# {comment}\n" + yaml.safe_dump(entry, sort_keys=False, allow_unicode=True)


def describe_space(space: SearchSpace, evaluated: int) -> str:
    """Say how many candidates there are, and which share of them is evaluated."""
    return f"{space.size:,} candidates, of which {evaluated:,} are evaluated ({evaluated / space.size:.2g} of all)"


def _name(record: SearchRecord, number: int) -> str:
    return f"{record.space.name}_{number}"


def _model(record: SearchRecord, number: int, one: Evaluation) -> str:
    how = "with the weights of the supernet" if record.settings["strategy"] == "oneshot" else "after a short training"
    costs = f"{COST_UNITS['params'](one.candidate.params)}, {COST_UNITS['madds'](one.candidate.madds)}"
    comment = f"{costs}; {one.accuracy:.2f} % top-1 on validation {how} ({record.epochs} epochs)"
    return model_text(one.candidate, _name(record, number), comment)


def _table(record: SearchRecord) -> str:
    rows = []
    chosen = {one.candidate.picks for one in record.front}
    for origin, evaluations in (("search", record.evaluated), ("random", record.random)):
        for number, one in enumerate(evaluations, start=1):
            candidate = one.candidate
            rows.append(
                {
                    "origin": origin,
                    "number": number,
                    "front": origin == "search" and candidate.picks in chosen,
                    "top1": round(one.accuracy, 4),
                    "pruned": one.pruned,
                    "params": candidate.params,
                    "madds": candidate.madds,
                    "memory": candidate.memory,
                    "latency_ms": "" if candidate.latency is None else round(candidate.latency, 4),
                    **record.space.describe(candidate.picks),
                }
            )
    return csv_text(rows)


def _summary(record: SearchRecord) -> str:
    space, best = record.space, record.best
    limits = [
        f"{name} {COST_UNITS[name.removeprefix('max_')](getattr(record.limits, name))}" for name in record.limits.given
    ]
    known = len({one.candidate.picks for one in (*record.evaluated, *record.random)})
    seconds = sum(one.seconds for one in {one.candidate.picks: one for one in record.evaluated}.values())
    by = (
        f"a supernet of {record.epochs} epochs" if record.settings["strategy"] == "oneshot"
        else f"trainings of {record.epochs} epochs"
    )  # fmt: skip
    lines = [
        f"# Search of {space.name}",
        "",
        f"`{record.command}`" if record.command else "From Python.",
        "",
        f"{describe_space(space, known)}, by {by} and {record.settings['sampler']}; the search's evaluations took",
        f"{seconds:.0f} s. Limits: {', '.join(limits) or 'none'}. Accuracies are top-1 on validation images, which",
        "chose the networks: they are no estimate of what these reach on other images.",
        "",
        "## Front",
        "",
        *markdown_table([_front_row(record, number, one) for number, one in enumerate(record.front, start=1)]),
        "",
        "![Accuracy against cost](front.svg)",
        "",
    ]
    if any(one.pruned for one in record.evaluated):
        lines += [f"{sum(one.pruned for one in record.evaluated)} trainings were ended early.", ""]
    if record.random:
        lines += [*_baseline(record), ""]
    lines += ["## Best", "", f"{_described(record, best)}.", ""]
    if record.trained is not None:
        test = record.trained.test_top1
        lines += [
            f"Trained from scratch for {record.final_epochs} epochs, in `best`: {record.trained.val_top1:.2f} % on "
            f"validation{'' if test is None else f', {test:.2f} % on test'}.",
            "",
        ]
    return "\n".join(lines)


def _front_row(record: SearchRecord, number: int, one: Evaluation) -> dict[str, object]:
    candidate = one.candidate
    row: dict[str, object] = {
        "model": f"[{_name(record, number)}]({FRONT}/{_name(record, number)}.yaml)",
        "top-1 %": f"{one.accuracy:.2f}",
        "parameters (M)": f"{candidate.params / 1e6:.3f}",
        "MAdds (M)": f"{candidate.madds / 1e6:.2f}",
    }
    if candidate.latency is not None:
        measured = record.latencies.get(candidate.picks)
        row["latency, predicted (ms)"] = f"{candidate.latency:.3f}"
        row[f"measured, {record.engine} (ms)"] = "–" if measured is None else f"{measured:.3f}"
    return row


def _baseline(record: SearchRecord) -> list[str]:
    """Compare with the random baseline."""
    found = max(one.accuracy for one in record.evaluated if not one.pruned)
    random = max(one.accuracy for one in record.random)
    words = "better than" if found > random else "as good as" if found == random else "worse than"
    return [
        "## Beside random search",
        "",
        f"The best of {len(record.evaluated)} evaluations of {record.settings['sampler']} has {found:.2f} %, {words} "
        f"the best of {len(record.random)} at random, {random:.2f} %.",
    ]


def _described(record: SearchRecord, one: Evaluation) -> str:
    candidate = one.candidate
    costs = [COST_UNITS["params"](candidate.params), COST_UNITS["madds"](candidate.madds)]
    if (measured := record.latencies.get(candidate.picks)) is not None:
        costs.append(f"{COST_UNITS['latency'](measured)} measured")
    choices = ", ".join(f"{name} = {option!r}" for name, option in record.space.describe(candidate.picks).items())
    return f"{one.accuracy:.2f} % on validation, {', '.join(costs)}: {choices}"
