"""A search as a conversation with Optuna: ask for a candidate, evaluate it, tell what it reached.

Hard limits cost no training: what breaks them breaks a constraint of the study. A seeded sampler asks the same
when told the same, so that an interrupted search goes on by repeating the conversation with a journal's results.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from random import Random
from typing import TYPE_CHECKING, Literal, get_args

from effnets.errors import ArgumentError
from effnets.search.candidates import Candidate, CandidateSource
from effnets.search.evaluations import CostName, Evaluation
from effnets.search.space import Choice, Picks, SearchSpace

if TYPE_CHECKING:
    from optuna import Study
    from optuna.distributions import BaseDistribution
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler

SamplerName = Literal["nsga2", "tpe", "random"]
# Asked in vain so often in a row, a sampler is given a random candidate instead.
_PATIENCE = 100
# Trainings that are not pruned, since the median of fewer says little.
_BEFORE_PRUNING = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class AskSettings:
    """How candidates are asked for.

    Attributes:
        sampler: ``nsga2`` (evolution), ``tpe`` (a model of what is good, for accuracy alone) or ``random``.
        evaluations: how many candidates to evaluate, those of other workers with the same storage among them.
        minimize: what else counts than accuracy; None: accuracy alone.
        prune: end trainings whose accuracy is below the median of others at the same epoch.
        seed: of the sampler.
        storage: URL of a database that several workers share; None: memory. study_name: of the study there.

    Raises:
        ArgumentError: if Optuna is missing, a setting has a value it cannot take, or two contradict each other.
    """

    sampler: SamplerName = "nsga2"
    evaluations: int = 50
    minimize: CostName | None = "madds"
    prune: bool = False
    seed: int = 0
    storage: str | None = None
    study_name: str = "effnets"

    def __post_init__(self) -> None:
        if self.sampler not in get_args(SamplerName):
            raise ArgumentError(f"sampler is {self.sampler!r}; choose one of {', '.join(get_args(SamplerName))}")
        if self.minimize is not None and self.minimize not in get_args(CostName):
            raise ArgumentError(
                f"minimize is {self.minimize!r}; choose one of {', '.join(get_args(CostName))}, or None"
            )
        if self.evaluations < 1:
            raise ArgumentError(f"evaluations is {self.evaluations!r}; it must be at least 1")
        if self.sampler == "tpe" and self.minimize is not None:
            raise ArgumentError(
                f"sampler is tpe, which looks for accuracy alone, and minimize is {self.minimize}; set limits instead "
                "(minimize=None), or take the sampler nsga2"
            )
        if self.prune and self.minimize is not None:
            raise ArgumentError(
                f"prune compares trainings by accuracy alone, and minimize is {self.minimize}: a small network would "
                "be ended for what it is meant to be; set minimize to None, or leave out prune"
            )
        if not find_spec("optuna"):
            raise ArgumentError("optuna, which searches, is not installed: pip install 'effnets[search]'")


Evaluate = Callable[[Candidate, Callable[[Sequence[float]], bool]], Evaluation]


class CandidateSearch:
    """Evaluates candidates of a space within its limits, one after the other.

    Args:
        source: of candidates. settings: how to ask.
        evaluate: returns what a candidate reached; called once for each.

    Raises:
        ArgumentError: if the storage cannot be opened.
    """

    def __init__(self, source: CandidateSource, settings: AskSettings, evaluate: Evaluate) -> None:
        self._source, self._settings, self._evaluate = source, settings, evaluate
        self._space = source.space
        self._distributions = {choice.name: _distribution(choice) for choice in self._space.choices}
        self._random = Random(f"search {settings.seed}")
        self._evaluated: dict[Picks, Evaluation] = {}
        self._study = _make_study(settings)

    def run(self) -> list[Evaluation]:
        """Return the evaluations in their order: as many as the settings say, or all that the space has."""
        waiting = max(1, min(10, self._settings.evaluations // 5))  # random ones to begin with
        idle = 0
        with _quiet():
            while self._count() < self._settings.evaluations:
                if self._settings.sampler == "random" or waiting > 0 or idle >= _PATIENCE:
                    candidate = self._source.draw_new(self._random, self._is_known)
                    if candidate is None:
                        break
                    waiting, idle = waiting - 1, 0
                    self._study.enqueue_trial(_parameters(self._space, candidate.picks))
                idle = 0 if self._step() else idle + 1
        return [*self._evaluated.values()]

    def _is_known(self, picks: Picks) -> bool:
        return picks in self._evaluated

    def _count(self) -> int:
        """The evaluations so far, those of other workers among them."""
        if self._settings.storage is not None:
            for trial in self._study.get_trials(deepcopy=False):
                if found := _evaluation_of(trial.user_attrs, self._source):
                    self._evaluated.setdefault(found.candidate.picks, found)
        return len(self._evaluated)

    def _step(self) -> bool:
        """Ask for a candidate and tell what it reached; return whether there was anything to evaluate."""
        from optuna.trial import TrialState

        trial = self._study.ask(self._distributions)
        picks = _picks(self._space, trial.params)
        candidate = self._source.measure(picks)
        if candidate is None or picks in self._evaluated:
            self._study.tell(trial, state=TrialState.FAIL)
            return False
        excess = self._source.excess(candidate)
        trial.set_constraint("limits", excess)
        if excess:
            self._study.tell(trial, self._values(candidate, 0.0))
            return False
        reported = 0

        def keep_on(epochs: Sequence[float]) -> bool:
            nonlocal reported
            for top1 in epochs[reported:]:
                reported += 1
                trial.report(top1, reported)
            return not trial.should_prune()

        found = self._evaluate(candidate, keep_on if self._settings.prune else _always)
        if self._settings.prune:
            keep_on(found.epochs)  # of one from the journal
        attributes = {"picks": picks, "accuracy": found.accuracy, "seconds": found.seconds, "pruned": found.pruned}
        for name, value in attributes.items():
            trial.set_user_attr(name, value)
        if found.pruned:
            self._study.tell(trial, state=TrialState.PRUNED)
        else:
            self._study.tell(trial, self._values(candidate, found.accuracy))
        self._evaluated[picks] = found
        return True

    def _values(self, candidate: Candidate, accuracy: float) -> list[float]:
        if self._settings.minimize is None:
            return [accuracy]
        # A latency that was not predicted is of a candidate that breaks another limit, and then counts for nothing.
        return [accuracy, float(getattr(candidate, self._settings.minimize) or 0.0)]


def random_search(source: CandidateSource, evaluate: Evaluate, *, evaluations: int, seed: int) -> list[Evaluation]:
    """Evaluate candidates drawn at random within the limits, each once; fewer if the space has no more."""
    random, found = Random(f"random {seed}"), dict[Picks, Evaluation]()
    while len(found) < evaluations:
        candidate = source.draw_new(random, found.__contains__)
        if candidate is None:
            break
        found[candidate.picks] = evaluate(candidate, _always)
    return [*found.values()]


def _always(_epochs: Sequence[float]) -> bool:
    return True


def _evaluation_of(attributes: dict[str, object], source: CandidateSource) -> Evaluation | None:
    """Return what a worker has recorded of its trial; None of one that is not finished."""
    if "pruned" not in attributes:
        return None
    picks, accuracy, seconds = attributes["picks"], attributes["accuracy"], attributes["seconds"]
    assert isinstance(picks, list | tuple)
    assert isinstance(accuracy, float)
    assert isinstance(seconds, float)
    candidate = source.measure(tuple(picks))
    assert candidate is not None, "it was evaluated"
    return Evaluation(candidate=candidate, accuracy=accuracy, seconds=seconds, pruned=bool(attributes["pruned"]))


def _make_study(settings: AskSettings) -> Study:
    import optuna
    from optuna.study import StudyDirection

    directions = [StudyDirection.MAXIMIZE, *([StudyDirection.MINIMIZE] if settings.minimize is not None else [])]
    try:
        with _quiet():
            return optuna.create_study(
                storage=settings.storage,
                study_name=settings.study_name,
                sampler=_make_sampler(settings),
                pruner=_make_pruner(settings),
                directions=directions,
                load_if_exists=settings.storage is not None,
            )
    except Exception as error:  # of whichever database it is; its text may hold a password
        if settings.storage is None:
            raise
        raise ArgumentError(
            f"the storage cannot be opened ({type(error).__name__}); give an URL such as sqlite:///search.db"
        ) from None


def _make_sampler(settings: AskSettings) -> BaseSampler:
    from optuna.samplers import NSGAIISampler, RandomSampler, TPESampler

    # Workers of one study are not to ask for the same.
    seed = settings.seed if settings.storage is None else settings.seed + os.getpid()
    if settings.sampler == "nsga2":
        return NSGAIISampler(seed=seed, population_size=max(4, min(50, settings.evaluations // 5)))
    if settings.sampler == "tpe":
        return TPESampler(seed=seed, n_startup_trials=max(1, min(10, settings.evaluations // 5)))
    return RandomSampler(seed=seed)


def _make_pruner(settings: AskSettings) -> BasePruner:
    from optuna.pruners import MedianPruner, NopPruner

    return MedianPruner(n_startup_trials=_BEFORE_PRUNING) if settings.prune else NopPruner()


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Optuna's own messages about every trial."""
    import optuna

    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)


def _distribution(choice: Choice) -> BaseDistribution:
    """Numbers have an order, which a sampler can use; what is written in a block string has none."""
    from optuna.distributions import CategoricalDistribution, IntDistribution

    if _is_ordered(choice):
        return IntDistribution(0, len(choice.options) - 1)
    return CategoricalDistribution([str(option) for option in choice.options])


def _parameters(space: SearchSpace, picks: Picks) -> dict[str, object]:
    return {
        choice.name: index if _is_ordered(choice) else str(choice.options[index])
        for choice, index in zip(space.choices, picks, strict=True)
    }


def _picks(space: SearchSpace, parameters: dict[str, object]) -> Picks:
    picks = []
    for choice in space.choices:
        value = parameters[choice.name]
        picks.append(value if isinstance(value, int) else [*map(str, choice.options)].index(str(value)))
    return tuple(picks)


def _is_ordered(choice: Choice) -> bool:
    return all(isinstance(option, int | float) for option in choice.options)
