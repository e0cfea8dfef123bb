"""`search`: the networks of a space that are most accurate on some data within a budget."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, get_args

from effnets.bench.latency import pick_engine
from effnets.data.open import DataConfig, open_data
from effnets.errors import ArgumentError, ExportError
from effnets.search.ask_tell import AskSettings, CandidateSearch, SamplerName, random_search
from effnets.search.candidates import Candidate, CandidateSource
from effnets.search.evaluations import CostName, Evaluation, EvaluationJournal, Evaluator, pareto_front
from effnets.search.evaluators import TrialEvaluator
from effnets.search.latency_check import LatencyPredictor
from effnets.search.search_report import SearchRecord, write_search
from effnets.search.space import Picks, SearchSpace, read_space
from effnets.search.study_folder import check_study_folder
from effnets.search.trainings import TrainingResult, train_candidate
from effnets.spec.scaling import ScaleLimits
from effnets.train.checkpoint import require_outside
from effnets.train.recipe import Recipe, find_recipe, read_recipe
from effnets.utils.run_journal import RunJournal

Strategy = Literal["trials", "oneshot"]
Progress = Callable[[str, float], object]
JOURNAL = "evaluations.jsonl"
# Settings of a recipe that change no result.
_FREE = ("model", "weights", "seed", "workers", "checkpoint_minutes", "cache")
_EPOCHS = 3
_SOME = 8  # candidates that latencies are corrected by
_HOPELESS = 2  # times a limit of latency: a network of more multiply-adds may be faster, but not by that much
_CANDIDATES, _BEST = "candidates", "best"


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchResult:
    """What a search found.

    Attributes:
        folder: with the front as YAML files, ``candidates.csv``, plots, and a summary.
        evaluated: all evaluations, in their order. front: of these what no other beats in accuracy and cost.
        best: the most accurate within the limits, also of latency as measured.
        random: evaluations of the random baseline, if there is one.
        trained: of the best by the recipe, in ``best``; None with `final_epochs` 0.
    """

    folder: Path
    evaluated: tuple[Evaluation, ...]
    front: tuple[Evaluation, ...]
    best: Evaluation
    random: tuple[Evaluation, ...] = ()
    trained: TrainingResult | None = None


def search(
    space: str | os.PathLike[str] | SearchSpace,
    data: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    strategy: Strategy = "trials",
    sampler: SamplerName = "nsga2",
    evaluations: int = 50,
    minimize: CostName | None = "madds",
    max_params: float | None = None,
    max_madds: float | None = None,
    max_memory: float | None = None,
    max_latency: float | None = None,
    min_share: float = 0.0,
    recipe: Recipe | str | os.PathLike[str] = "cifar10_demo",
    epochs: int | None = None,
    final_epochs: int | None = None,
    prune: bool = False,
    random_baseline: bool = False,
    seed: int = 0,
    resume: bool = False,
    storage: str | None = None,
    engine: str = "auto",
    threads: int | None = None,
    progress: Progress | None = None,
    command: str | None = None,
) -> SearchResult:
    """Search a space for networks that are accurate on `data` within hard limits on what they cost.

    The accuracies that decide are those on validation images; test images are measured with the best network alone.
    Killed at any moment and resumed, a search finds the same front as undisturbed; not so with `storage`, where the
    order of the workers' results counts.

    Args:
        space: the name of an included space, or a YAML file (`effnets.search.space`).
        data: what `effnets.data.open_data` takes.
        output: a new folder for the result.
        strategy: ``trials`` trains each candidate from scratch; ``oneshot`` trains a supernet once, whose weights all
            candidates share (arXiv:1904.00420), and measures candidates with these.
        sampler: ``nsga2`` (evolution, for accuracy and cost at once), ``tpe`` (for accuracy alone) or ``random``.
        evaluations: candidates to evaluate; each once.
        minimize: the cost that the front sets against accuracy, and ``nsga2`` minimizes; None: accuracy alone counts,
            and the front is against multiply-adds.
        max_params: parameters. max_madds: multiply-adds for one image.
        max_memory: bytes that feature maps of one image take at most in float32.
        max_latency: milliseconds for one image on `engine`, predicted from measured blocks, and measured in the end.
        min_share: what candidates use of every limit at least.
        recipe: of all trainings; its model and weights are replaced.
        epochs: of each candidate, by default 3; of the supernet, by default the recipe's.
        final_epochs: of the best network's training, by default the recipe's; 0 skips it.
        prune: end trainings that are below the median of others at the same epoch; for accuracy alone, by ``trials``.
        random_baseline: evaluate as many candidates at random, to compare with.
        seed: of samplers and trainings.
        resume: continue the search in `output`, or start it.
        storage: URL of a database that several workers share, each with a folder of its own.
        engine: for latencies, as of ``effnets choose``. threads: of the engine; None leaves them to it.
        progress: called with what is being done, and the share that is done, 0 to 1.
        command: recorded in the summary.

    Raises:
        ArgumentError: an argument is out of range, or two contradict each other; no candidate keeps the limits, and the
            message says what the smallest needs; Optuna is missing; or the folder holds another search, and the message
            names what differs. All before any work.
        ConfigError, MissingFileError, DataError, …: as `read_space`, `read_recipe`, `open_data`.
        ExportError: `output` cannot be written. TrainingError: it is inside of `data`.
        TrainingInterruptedError: a signal was received; `resume` goes on.
    """
    limits = ScaleLimits(max_params=max_params, max_madds=max_madds, max_memory=max_memory, max_latency=max_latency)
    asked = AskSettings(
        sampler=sampler, evaluations=evaluations, minimize=minimize, prune=prune, seed=seed, storage=storage
    )
    run = _Search(
        space=space if isinstance(space, SearchSpace) else read_space(space),
        data=data,
        strategy=strategy,
        asked=asked,
        limits=limits,
        min_share=min_share,
        short=_short_recipe(recipe, strategy, epochs),
        final=_final_recipe(recipe, final_epochs),
        engine=engine if max_latency is not None or minimize == "latency" else None,
        threads=threads,
        random_baseline=random_baseline,
        progress=progress or (lambda _what, _share: None),
        command=command,
    )
    return run(check_search_folder(output, resume=resume))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Search:
    """A search, its arguments checked; called with its folder, it does the work."""

    space: SearchSpace
    data: str | os.PathLike[str]
    strategy: Strategy
    asked: AskSettings
    limits: ScaleLimits
    min_share: float
    short: Recipe
    final: Recipe | None
    engine: str | None
    threads: int | None
    random_baseline: bool
    progress: Progress
    command: str | None

    def __post_init__(self) -> None:
        if self.strategy not in get_args(Strategy):
            raise ArgumentError(f"strategy is {self.strategy!r}; choose one of {', '.join(get_args(Strategy))}")
        if self.asked.prune and self.strategy != "trials":
            raise ArgumentError("prune ends trainings, and oneshot trains no candidate; leave it out, or take trials")
        if self.engine is not None:
            pick_engine(self.engine)

    def __call__(self, folder: Path) -> SearchResult:
        require_outside(folder, self.data)
        images = _check_data(self.data, self.short, self.asked.seed)
        source = CandidateSource(
            self.space,
            self.limits,
            min_share=self.min_share,
            num_classes=images.classes,
            in_chans=self.short.in_chans or 3,
        )
        some = source.draw_some(_SOME, self.asked.seed)  # an unsatisfiable space is an error before any work
        settings = self._settings(images)
        is_new = not folder.exists()
        try:
            folder.mkdir(exist_ok=True)
        except OSError as error:
            raise ExportError(f"{folder}: cannot be made ({error.strerror or error}); name another folder") from None
        with RunJournal(folder / JOURNAL, settings, resume=True) as journal:
            try:
                predictor = None
                if self.engine is not None:
                    predictor = LatencyPredictor(self.engine, self.threads, folder / "latency", self.progress)
                    if is_new:
                        self._check_latency(predictor, source.smallest())
                    predictor.fit([candidate.spec for candidate in some])
                    source = source.with_latency(predictor.predict)
                    source.draw_some(1, self.asked.seed)
            except ArgumentError:  # the limit of latency is unsatisfiable, too
                if is_new:
                    shutil.rmtree(folder, ignore_errors=True)
                raise
            return self._search(folder, source, journal, predictor, settings)

    def _settings(self, images: _Images) -> dict[str, Any]:
        """What the result depends on; a search with others does not continue this one."""
        asked = {name: value for name, value in asdict(self.asked).items() if name not in ("storage", "study_name")}
        return {
            "space": f"{self.space.name} {hashlib.sha256(self.space.path.read_bytes()).hexdigest()[:8]}",
            "strategy": self.strategy,
            **asked,
            **asdict(self.limits),
            "min_share": self.min_share,
            "data": images.digest,
            "engine": self.engine,
            "threads": self.threads,
            **{f"recipe.{name}": value for name, value in asdict(self.short).items() if name not in _FREE},
            "optuna": version("optuna"),
        }

    def _check_latency(self, predictor: LatencyPredictor, smallest: Candidate) -> None:
        """Refuse a limit far below any candidate's latency before blocks are measured, which takes minutes."""
        limit = self.limits.max_latency
        if limit is not None and (least := predictor.measure(smallest.spec)) > _HOPELESS * limit:
            raise ArgumentError(
                f"{self.space.name}: no candidate keeps max_latency {limit:g} ms: the one with the fewest "
                f"multiply-adds takes {least:.3g} ms on {predictor.engine}; raise max_latency, or offer smaller options"
            )

    def _search(
        self,
        folder: Path,
        source: CandidateSource,
        journal: RunJournal,
        predictor: LatencyPredictor | None,
        settings: dict[str, Any],
    ) -> SearchResult:
        known = EvaluationJournal(journal, self._evaluator(folder), source.measure)
        asked = self.asked
        if asked.storage is not None:  # workers with other settings have another study there
            digest = hashlib.sha256(repr(sorted(settings.items())).encode()).hexdigest()[:12]
            asked = replace(asked, study_name=f"effnets {self.space.name} {digest}")
        evaluated = CandidateSearch(source, asked, known.evaluate).run()
        baseline: list[Evaluation] = []
        if self.random_baseline:
            baseline = random_search(source, known.evaluate, evaluations=len(evaluated), seed=asked.seed)
        shutil.rmtree(folder / _CANDIDATES, ignore_errors=True)
        cost = asked.minimize or "madds"
        front = pareto_front(evaluated, cost)
        best, latencies = _choose_best([*front, *evaluated], self.limits, predictor)
        record = SearchRecord(
            space=self.space,
            limits=self.limits,
            cost=cost,
            evaluated=evaluated,
            front=front,
            best=best,
            random=baseline,
            latencies=latencies,
            engine=None if predictor is None else predictor.engine,
            settings=settings,
            command=self.command,
            epochs=self.short.epochs,
        )
        write_search(folder, record)
        trained = None
        if self.final is not None:
            spec = replace(best.candidate.spec, name=f"{self.space.name}_best")
            where = folder / _BEST
            trained = train_candidate(spec, self.data, self.final, where, seed=asked.seed, progress=self.progress)
            write_search(folder, replace(record, trained=trained, final_epochs=self.final.epochs))
        return SearchResult(
            folder=folder,
            evaluated=tuple(evaluated),
            front=tuple(front),
            best=best,
            random=tuple(baseline),
            trained=trained,
        )

    def _evaluator(self, folder: Path) -> Evaluator:
        seed = self.asked.seed
        if self.strategy == "oneshot":
            from effnets.search.evaluators import OneShotEvaluator

            supernet = folder / "supernet"
            return OneShotEvaluator(self.space, self.data, self.short, supernet, seed, self.limits, self.progress)
        total = self.asked.evaluations * (2 if self.random_baseline else 1)
        return TrialEvaluator(
            self.data, self.short, folder / _CANDIDATES, seed, self.progress, total, prune=self.asked.prune
        )


def check_search_folder(output: str | os.PathLike[str], *, resume: bool) -> Path:
    """Return the folder of a search if it is new, or to be resumed; raises ArgumentError or ExportError."""
    path = Path(output)
    if (path / JOURNAL).is_file():
        if not resume:
            raise ArgumentError(
                f"{path}: holds a search; continue it with --resume (resume=True), or name a new folder"
            )
        if not os.access(path, os.W_OK):
            raise ExportError(f"{path}: cannot be written; change its permissions")
        return path
    return check_study_folder(path)


@dataclass(frozen=True, slots=True)
class _Images:
    classes: int
    digest: str


def _check_data(data: str | os.PathLike[str], recipe: Recipe, seed: int) -> _Images:
    """Open the data once, as the trainings will; raises ArgumentError without images to train or validate on."""
    splits = open_data(DataConfig(data, val_share=recipe.val_share), seed=seed)
    if splits.train is None:
        raise ArgumentError(f"{data}: has no training images; put them into train/")
    if splits.val is None or not len(splits.val):
        raise ArgumentError(f"{data}: has no images for validation; add some, or raise the recipe's val_share above 0")
    digest = hashlib.sha256(f"{splits.train.digest()} {splits.val.digest()}".encode()).hexdigest()[:12]
    return _Images(len(splits.class_names), digest)


def _short_recipe(recipe: Recipe | str | os.PathLike[str], strategy: Strategy, epochs: int | None) -> Recipe:
    """Return the recipe of candidates, or of the supernet."""
    if epochs is not None and epochs < 1:
        raise ArgumentError(f"epochs is {epochs!r}; it must be at least 1")
    whole = recipe if isinstance(recipe, Recipe) else read_recipe(find_recipe(recipe))
    if whole.image_size is not None:
        raise ArgumentError("the recipe has an image_size, which the space decides (input_size); leave it out")
    return replace(whole, epochs=epochs or (whole.epochs if strategy == "oneshot" else _EPOCHS))


def _final_recipe(recipe: Recipe | str | os.PathLike[str], epochs: int | None) -> Recipe | None:
    """Return the recipe of the best network; None: it is not trained."""
    if epochs is not None and epochs < 0:
        raise ArgumentError(f"final_epochs is {epochs!r}; it must be at least 0")
    whole = recipe if isinstance(recipe, Recipe) else read_recipe(find_recipe(recipe))
    return None if epochs == 0 else replace(whole, epochs=epochs or whole.epochs)


def _choose_best(
    evaluations: Iterable[Evaluation], limits: ScaleLimits, predictor: LatencyPredictor | None
) -> tuple[Evaluation, dict[Picks, float]]:
    """Return the first of the most accurate, and measured latencies by picks; with a limit one that keeps it."""
    ordered = sorted((one for one in evaluations if not one.pruned), key=lambda one: -one.accuracy)
    if not ordered:
        raise ArgumentError("every training was pruned; leave out prune, or raise evaluations")
    latencies: dict[Picks, float] = {}
    if predictor is None or limits.max_latency is None:
        return ordered[0], latencies
    for one in ordered:
        latency = predictor.measure(one.candidate.spec)
        latencies[one.candidate.picks] = latency
        if latency <= limits.max_latency:
            return one, latencies
    raise ArgumentError(
        f"no evaluated network keeps max_latency {limits.max_latency:g} ms when measured whole (the nearest takes "
        f"{min(latencies.values()):.3g} ms), though their blocks said so; is the machine busy? Lower max_latency"
    )
