"""Networks of a space for a budget, by arithmetic alone. Free of torch but for latency."""

from __future__ import annotations

import os
from pathlib import Path
from random import Random

from effnets.errors import ArgumentError
from effnets.search.candidates import Candidate, CandidateSource
from effnets.search.search_report import model_text
from effnets.search.space import SearchSpace, read_space
from effnets.search.study_folder import check_study_folder, write_study_folder
from effnets.spec.scaling import COST_UNITS, ScaleLimits
from effnets.utils.arguments import check_integer

# What a proposal uses of every limit at least.
BUDGET_SHARE = 0.98


def propose(
    space: str | os.PathLike[str] | SearchSpace,
    count: int = 10,
    *,
    max_params: float | None = None,
    max_madds: float | None = None,
    max_memory: float | None = None,
    min_share: float = BUDGET_SHARE,
    num_classes: int | None = None,
    seed: int = 0,
    output: str | os.PathLike[str] | None = None,
) -> list[Candidate]:
    """Propose networks of a space that use a budget, without data or training, the one with most multiply-adds first.

    Args:
        space: the name of an included space, or a YAML file.
        count: how many different ones at most; fewer if no more are found.
        max_params: parameters. max_madds: multiply-adds for one image. max_memory: bytes of feature maps.
        min_share: what a proposal uses of every limit at least.
        num_classes: outputs of the classifier; None: the space's.
        seed: of what is drawn.
        output: a new folder for the proposals as YAML models.

    Raises:
        ArgumentError: no limit is given, or an argument is out of range; or nothing is found, and the message says what
            comes nearest. ConfigError, MissingFileError: as `read_space`. ExportError: `output` cannot be written.
    """
    space = space if isinstance(space, SearchSpace) else read_space(space)
    limits = ScaleLimits(max_params=max_params, max_madds=max_madds, max_memory=max_memory)
    if not limits.given:
        raise ArgumentError("no limit is given; give at least one of max_params, max_madds, max_memory")
    check_integer("count", count, 1, "it must be at least 1")
    folder = None if output is None else check_study_folder(output)
    source = CandidateSource(space, limits, min_share=min_share, num_classes=num_classes)
    random, found = Random(f"propose {seed}"), dict[tuple[int, ...], Candidate]()
    while len(found) < count:
        candidate = source.draw_new(random, found.__contains__)
        if candidate is None:
            break
        found[candidate.picks] = candidate
    proposals = sorted(found.values(), key=lambda one: (-one.madds, one.picks))
    if folder is not None:
        _write(folder, space, proposals)
    return proposals


def _write(folder: Path, space: SearchSpace, proposals: list[Candidate]) -> None:
    files = {}
    for number, candidate in enumerate(proposals, start=1):
        name = f"{space.name}_{number}"
        comment = f"{COST_UNITS['params'](candidate.params)}, {COST_UNITS['madds'](candidate.madds)}"
        files[f"{name}.yaml"] = model_text(candidate, name, comment)
    write_study_folder(folder, files)
