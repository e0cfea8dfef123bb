"""Candidates"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from effnets.deploy.optimize.rewrites import Rewrites, preset
from effnets.engines.base import Precision
from effnets.errors import ConfigError, ExportError
from effnets.spec.plan import NetworkPlan
from effnets.utils.atomic_file import write_whole
from effnets.utils.machine import Load

TUNE_ENGINES = ("onnxruntime", "openvino", "torch", "torch-compile")


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A network rewritten for an engine, executed in a precision; `name` is how tables call it."""

    name: str
    engine: str
    precision: Precision
    rewrites: Rewrites

    def to_dict(self) -> dict[str, Any]:
        """As plain values that JSON can hold."""
        return {
            "name": self.name,
            "engine": self.engine,
            "precision": self.precision,
            "rewrites": self.rewrites.to_dict(),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Candidate:
        """What `to_dict` made."""
        return cls(**{**values, "rewrites": Rewrites.from_dict(values["rewrites"])})


def candidates(plan: NetworkPlan, engines: Sequence[str], precisions: Sequence[Precision]) -> list[Candidate]:
    """What is worth trying for a network, likely winners first; the first one is the default.

    Rewrites that would change nothing in this network are left out.
    """
    found = []
    for precision in precisions:
        for engine in engines:
            if engine == "onnxruntime" and precision != "float32":
                continue
            variants = _VARIANTS[engine](plan, preset(engine))
            suffix = "" if precision == "float32" else f", {precision}"
            found += [
                Candidate(name=f"{engine}, {name}{suffix}", engine=engine, precision=precision, rewrites=rewrites)
                for name, rewrites in variants.items()
            ]
    # One round over all engines' first variants, then their second ones: a short budget sees every engine.
    order = {id(candidate): index for group in _by_engine(found) for index, candidate in enumerate(group)}
    return sorted(found, key=lambda candidate: order[id(candidate)])


def _by_engine(found: Sequence[Candidate]) -> list[list[Candidate]]:
    groups: dict[tuple[str, Precision], list[Candidate]] = {}
    for candidate in found:
        groups.setdefault((candidate.engine, candidate.precision), []).append(candidate)
    return list(groups.values())


def _onnx_variants(plan: NetworkPlan, base: Rewrites) -> dict[str, Rewrites]:
    blocks = [block for stage in plan.stages for block in stage]
    variants = {"preset": base}
    if any(len(block.convolution) > 1 for block in blocks):
        variants["depthwise merged"] = replace(base, depthwise="all")
        for price in (9, 40):
            variants[f"depthwise by cost, {price} a copy"] = replace(base, depthwise="cost", copy_taps=price)
        variants["depthwise kept"] = replace(base, depthwise="keep")
    if any(len(block.expand) > 1 or len(block.project) > 1 for block in blocks):
        variants["pointwise dense"] = replace(base, equal_pointwise="dense", unequal_pointwise="dense")
        variants["pointwise grouped"] = replace(base, equal_pointwise="group", unequal_pointwise="dense")
        variants["pointwise kept"] = replace(base, equal_pointwise="keep", unequal_pointwise="keep")
    for align in (1, 8, 16):
        variants[f"aligned to {align}"] = replace(base, align=align)
    return {name: rewrites for name, rewrites in variants.items() if name == "preset" or rewrites != base}


def _torch_variants(_: NetworkPlan, base: Rewrites) -> dict[str, Rewrites]:
    return {"preset": base, "NCHW": replace(base, channels_last=False), "not fused": replace(base, fuse=False)}


def _compiled_variants(_: NetworkPlan, base: Rewrites) -> dict[str, Rewrites]:
    """One alone: a compilation takes minutes."""
    return {"preset": base}


_VARIANTS = {
    "onnxruntime": _onnx_variants,
    "openvino": _onnx_variants,
    "torch": _torch_variants,
    "torch-compile": _compiled_variants,
}


_FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A candidate and what became of it.

    Attributes:
        milliseconds, quartiles: for one image, of the last turn that it took part in; None if it was not timed.
        rounds: how many rounds that were.
        difference: of its logits from the network's in float64, as a share of the largest; None if it failed.
        note: why it was not timed, or empty.
    """

    candidate: Candidate
    milliseconds: float | None = None
    quartiles: tuple[float, float] | None = None
    rounds: int = 0
    difference: float | None = None
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        """As plain values that JSON can hold."""
        return {name: getattr(self, name) for name in _RESULTS} | {"candidate": self.candidate.to_dict()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Measured:
        """What `to_dict` made."""
        quartiles = values["quartiles"]
        kept = {name: values[name] for name in _RESULTS}
        kept["quartiles"] = tuple(quartiles) if quartiles else None
        return cls(candidate=Candidate.from_dict(values["candidate"]), **kept)


_RESULTS = ("milliseconds", "quartiles", "rounds", "difference", "note")


@dataclass(frozen=True, slots=True, kw_only=True)
class TuneReport:
    """All candidates and the choice.

    Attributes:
        conditions: what the measurement holds for: model and hash of its values, machine, versions, batch, image size,
            threads, tolerance, margin. It is used again only where all are the same.
        choice: index of the fastest candidate within tolerance that beat the default by the margin, else 0; of the
            fastest within tolerance where the default is not.
        load: running processes at the beginning and at the end, on average over a minute; None where the system does
            not tell.
        seconds: that tuning took.
        reused: read from a file rather than measured.
    """

    conditions: Mapping[str, Any]
    candidates: tuple[Measured, ...]
    choice: int
    load: Load
    seconds: float
    reused: bool = False

    @property
    def chosen(self) -> Candidate:
        """The candidate to take."""
        return self.candidates[self.choice].candidate

    def __str__(self) -> str:
        found, default = self.candidates[self.choice], self.candidates[0]
        if found is default or found.milliseconds is None or default.milliseconds is None:
            return f"{default.candidate.name}: nothing beat the default by {100 * self.conditions['margin']:.0f} %"
        gain = default.milliseconds / found.milliseconds
        times = f"{found.milliseconds:.2f} ms an image, {default.milliseconds:.2f} ms by default"
        return f"{found.candidate.name}: {gain:.2f} times as fast as the default ({times})"

    def to_dict(self) -> dict[str, Any]:
        """As plain values that JSON can hold."""
        return {
            "format": _FORMAT,
            "conditions": dict(self.conditions),
            "choice": self.choice,
            "chosen": self.chosen.name,
            "candidates": [measured.to_dict() for measured in self.candidates],
            "load": self.load and list(self.load),
            "seconds": self.seconds,
        }

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write it as JSON.

        Raises:
            ExportError: it cannot be written.
        """
        try:
            write_whole(Path(path), (json.dumps(self.to_dict(), indent=1) + "\n").encode())
        except OSError as error:
            raise ExportError(f"{path}: cannot be written ({error.strerror or error})") from None


def read_report(path: str | os.PathLike[str], conditions: Mapping[str, Any]) -> TuneReport | None:
    """What an earlier run wrote, if it holds for these conditions; None if not, or if there is none.

    A file that cannot be understood counts as none: it is measured anew and replaced.
    """
    try:
        values = json.loads(Path(path).read_text(encoding="utf-8"))
        if values["format"] != _FORMAT or values["conditions"] != json.loads(json.dumps(dict(conditions))):
            return None
        measured = tuple(Measured.from_dict(entry) for entry in values["candidates"])
        choice, load = values["choice"], values["load"]
        if not isinstance(choice, int) or not 0 <= choice < len(measured):
            return None
        if load is not None:
            first, last = load
            load = first, last
        return TuneReport(
            conditions=conditions,
            candidates=measured,
            choice=choice,
            load=load,
            seconds=values["seconds"],
            reused=True,
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ConfigError):
        return None


def report_path(path: str | os.PathLike[str]) -> Path:
    """The file beside an exported model that holds what was tuned: ``model.onnx`` → ``model.tune.json``."""
    return Path(path).with_suffix(".tune.json")
