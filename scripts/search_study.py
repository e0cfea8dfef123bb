"""Does the network that a one-shot search finds beat random search, and 3×3 kernels, at equal multiply-adds?

    uv run scripts/search_study.py SPACE DATA --runs FOLDER --madds 30e6 [--evaluations 40] [--band 0.03] [--seeds 3]
        [the other options of scripts/supernet_study.py]

It takes the supernet of scripts/supernet_study.py in FOLDER, with the same options, and trains it to its end first if
need be. Three networks have multiply-adds from (1 - band) · madds to madds:

- found: the best of an evolutionary search by the supernet's accuracy on the validation images;
- random: the best, by the same measure, of as many candidates drawn at random;
- 3×3: the found one with 3×3 kernels everywhere. What that saves goes into its width: all channels are multiplied by
  one factor, the largest that the found one's multiply-adds allow, and rounded to whole numbers, since multiples of 8
  come no nearer than a few per cent.

Each is trained from scratch by the same recipe for `--epochs`, with each seed. Test images choose nothing. What is
evaluated or trained is kept in FOLDER, and what was stopped goes on where it was: run the same command again. Beside
other programs set OMP_NUM_THREADS=1.
"""

from __future__ import annotations

import argparse
import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import fmean, stdev

from supernet_study import add_arguments, describe, open_supernet, show, write_results

from effnets.search.ask_tell import AskSettings, CandidateSearch, random_search
from effnets.search.candidates import Candidate, CandidateSource
from effnets.search.evaluations import Evaluation, EvaluationJournal
from effnets.search.kernel_claims import pooled_deviation
from effnets.search.space import Picks, SearchSpace
from effnets.search.trainings import TrainingResult, train_all
from effnets.spec.scaling import ScaleLimits, scale_candidates
from effnets.spec.specs import ModelSpec
from effnets.utils.machine import keep_freed_memory
from effnets.utils.run_journal import RunJournal

FOUND, RANDOM, PLAIN = "found", "random", "3×3"


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """A network to train: where it comes from, its folder's name, and its accuracy with the supernet's weights."""

    origin: str
    name: str
    options: str
    spec: ModelSpec
    shared_val: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Of two networks' mean test accuracy in points, with its standard error; None: one seed says nothing of it."""

    other: str
    points: float
    error: float | None

    def __str__(self) -> str:
        if self.error is None:
            return f"{self.points:+.2f} points over {self.other}, with one seed, which decides nothing"
        verdict = (
            "it beats it" if self.points > 2 * self.error else
            "it loses to it" if self.points < -2 * self.error else "no difference is shown"
        )  # fmt: skip
        return f"{self.points:+.2f} points over {self.other}, standard error {self.error:.2f}: {verdict}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--madds", type=float, required=True, help="the most that the networks may have")
    parser.add_argument("--band", type=float, default=0.03, help="how much less they may have, as a share")
    parser.add_argument("--evaluations", type=int, default=40, help="of each search")
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    keep_freed_memory()
    supernet, data, recipe = open_supernet(arguments)
    source = CandidateSource(
        supernet.space,
        ScaleLimits(max_madds=arguments.madds),
        min_share=1 - arguments.band,
        num_classes=len(supernet.network.class_names),
    )
    # In the supernet's folder, which is refused with another supernet.
    with RunJournal(arguments.runs / "supernet" / "evaluations.jsonl", {}, resume=True) as journal:
        evaluator = EvaluationJournal(journal, Measured(supernet.evaluate), source.measure)
        found, drawn = search_both(source, evaluator, arguments.evaluations, arguments.seed)
    networks = choose_networks(supernet.space, found, drawn)
    for network in networks:
        print(f"{network.origin}: {network.options}", flush=True)
    results: dict[str, list[TrainingResult]] = defaultdict(list)
    different = [*{network.name: network for network in networks}.values()]  # both searches may find the same
    for network, seed, result in train_all(
        different, data, recipe, arguments.runs, seeds=arguments.seeds, progress=show()
    ):
        results[network.name].append(result)
        print(f"{network.origin}, seed {seed}: {result.val_top1:.2f} val, {result.test_top1:.2f} test", flush=True)
    record = {
        "evaluations": {
            origin: [{"options": describe(supernet.space, one.candidate.picks), "val": one.accuracy} for one in every]
            for origin, every in ((FOUND, found), (RANDOM, drawn))
        },
        "networks": [
            {"origin": network.origin, "options": network.options, "width": network.spec.width}
            | {"trainings": [asdict(result) for result in results[network.name]]}
            for network in networks
        ],
        "differences": [asdict(one) for one in differences(networks, results)],
    }
    write_results(arguments, "search-results.json", record, document(networks, results, found, drawn, arguments))


@dataclass
class Measured:
    """An evaluator that asks the supernet, and says what it said."""

    evaluate: Callable[[Picks], float]
    count: int = 0

    def __call__(self, candidate: Candidate, _report: Callable[[int, float], None]) -> float:
        accuracy = self.evaluate(candidate.picks)
        self.count += 1
        print(f"evaluation {self.count}: {accuracy:.2f}, {candidate.madds / 1e6:.2f} M multiply-adds", flush=True)
        return accuracy


def search_both(
    source: CandidateSource, journal: EvaluationJournal, evaluations: int, seed: int
) -> tuple[list[Evaluation], list[Evaluation]]:
    """The evaluations of the evolutionary search, and as many at random."""
    settings = AskSettings(evaluations=evaluations, minimize=None, seed=seed)
    found = CandidateSearch(source, settings, journal.evaluate).run()
    return found, random_search(source, journal.evaluate, evaluations=len(found), seed=seed)


def choose_networks(space: SearchSpace, found: Sequence[Evaluation], drawn: Sequence[Evaluation]) -> list[Network]:
    """The best of both searches, and the first of these with 3×3 kernels."""
    best = max(found, key=lambda one: one.accuracy)
    networks = [
        Network(
            origin=origin,
            name="-".join(map(str, one.candidate.picks)),
            options=describe(space, one.candidate.picks),
            spec=one.candidate.spec,
            shared_val=one.accuracy,
        )
        for origin, one in ((FOUND, best), (RANDOM, max(drawn, key=lambda one: one.accuracy)))
    ]
    plain = widen_plain(space, best.candidate)
    options = f"the found one's with 3×3 kernels, {plain.width:g} times as wide"
    return [*networks, Network(origin=PLAIN, name=f"plain-{networks[0].name}", options=options, spec=plain)]


def widen_plain(space: SearchSpace, candidate: Candidate) -> ModelSpec:
    """The candidate with 3×3 kernels everywhere, as wide as its multiply-adds allow."""
    plain = {choice.name: "3" for choice in space.choices if choice.name.endswith(".k")}
    spec = space.spec(space.picks(space.describe(candidate.picks) | plain))
    spec = replace(spec, num_classes=candidate.spec.num_classes, divisor=1)
    [model] = scale_candidates(spec, ScaleLimits(max_madds=candidate.madds), [spec.input_size])
    return model.spec


def differences(networks: Sequence[Network], results: Mapping[str, Sequence[TrainingResult]]) -> list[Difference]:
    """How much the found network is ahead of the others. The spread of seeds is pooled over all networks."""
    top1 = {network.origin: [result.top1 for result in results[network.name]] for network in networks}
    names = {network.origin: network.name for network in networks}
    deviation = pooled_deviation([[result.top1 for result in group] for group in results.values()])
    seeds = len(top1[FOUND])
    return [
        Difference(
            other=origin,
            points=fmean(top1[FOUND]) - fmean(top1[origin]),
            error=None if deviation is None else deviation * math.sqrt(2 / seeds),
        )
        for origin in (RANDOM, PLAIN)
        if names[origin] != names[FOUND]
    ]


def document(
    networks: Sequence[Network],
    results: Mapping[str, Sequence[TrainingResult]],
    found: Sequence[Evaluation],
    drawn: Sequence[Evaluation],
    arguments: argparse.Namespace,
) -> str:
    """The table and what it says."""
    lines = [
        "| network | options | parameters (M) | MAdds (M) | supernet, val | val | test |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for network in networks:
        group = results[network.name]
        values = [network.options, f"{group[0].params / 1e6:.3f}", f"{group[0].madds / 1e6:.2f}"]
        values.append("–" if network.shared_val is None else f"{network.shared_val:.2f}")
        values += [spread([result.val_top1 for result in group]), spread([result.top1 for result in group])]
        lines.append(f"| {network.origin} | {' | '.join(values)} |")
    madds = [results[network.name][0].madds for network in networks]
    ways = [(f"{origin}: {spread([one.accuracy for one in every])}, at most {max(one.accuracy for one in every):.2f}")
            for origin, every in (("of the search", found), ("at random", drawn))]  # fmt: skip
    said = [f"- {one}" for one in differences(networks, results)]
    if networks[0].name == networks[1].name:
        said.insert(0, "- the random search found the same network")
    return "\n".join(
        [
            *lines,
            "",
            f"Means and standard deviations of {arguments.seeds} seeds, {arguments.epochs} epochs each; multiply-adds "
            f"lie within {100 * (1 - min(madds) / max(madds)):.1f} %. Accuracy with the supernet's weights, of "
            f"{len(found)} evaluations each, {'; '.join(ways)}.",
            "",
            "The found network's test accuracy:",
            "",
            *said,
            "",
            "The standard error is of the mean difference, from the spread of seeds pooled over all networks; two of "
            "them decide. It says nothing of another supernet, or of another search.",
            "",
        ]
    )


def spread(values: Sequence[float]) -> str:
    """Mean and standard deviation."""
    return f"{fmean(values):.2f}" + (f" ± {stdev(values):.2f}" if len(values) > 1 else "")


if __name__ == "__main__":
    main()
