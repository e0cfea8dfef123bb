"""What is measured, kept, reused and measured anew, with a profiler that counts instead of taking time."""

from __future__ import annotations

import json

import pytest
import torch

from effnets.bench import latency
from effnets.bench.choose import Limits, Network, list_candidates
from effnets.bench.latency import LatencyProfiler, measure_candidates, pick_engine
from effnets.deploy.optimize.rewrites import preset
from effnets.errors import ArgumentError, EngineError
from effnets.utils.timing import MeasurementCache, Timing


class CountingMeter(LatencyProfiler):
    """Takes latency from the size, and remembers what was asked."""

    def __post_init__(self):
        super().__post_init__()
        self.asked = []

    def measure(self, network):
        self.asked.append(network)
        return Timing((network.size / 100, network.size / 100, network.size / 99))


@pytest.fixture
def store(tmp_path):
    return MeasurementCache(tmp_path / "measurements")


@pytest.fixture
def candidates():
    return list_candidates("tf_mobilenetv2_100")[0]


def test_the_second_run_measures_nothing(store, candidates):
    first, second = CountingMeter("torch"), CountingMeter("torch")
    before = measure_candidates(candidates, Limits(), first, store=store)
    after = measure_candidates(candidates, Limits(), second, store=store)
    assert len(first.asked) == before.measured == after.reused > 0
    assert second.asked == []
    assert (before.reused, after.measured) == (0, 0)
    assert before.candidates == after.candidates
    assert not list(store.folder.glob(".*")), "nothing temporary is left"


def test_other_conditions_are_other_measurements(store, candidates):
    measure_candidates(candidates, Limits(), CountingMeter("torch"), store=store)
    for profiler in (CountingMeter("torch", batch=2), CountingMeter("torch", threads=1), CountingMeter("onnxruntime")):
        assert measure_candidates(candidates, Limits(), profiler, store=store).reused == 0


def test_measuring_anew_replaces(store, candidates):
    measure_candidates(candidates, Limits(), CountingMeter("torch"), store=store)
    profiler = CountingMeter("torch")
    assert measure_candidates(candidates, Limits(), profiler, store=store, anew=True).reused == 0
    assert profiler.asked


def change(**values):
    return lambda text: json.dumps({**json.loads(text), **values})


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: "",  # noqa: ARG005
        lambda text: "[]",  # noqa: ARG005
        lambda text: "[" * 100_000,  # noqa: ARG005
        change(ms=[]),
        change(ms=[1.0, "2"]),
        change(ms=[1.0, -2.0]),
        change(ms=[True]),
        change(ms=[float("nan")]),
        change(format=99),
        change(conditions={}),
    ],
)
def test_a_damaged_measurement_is_made_anew_and_said_so(store, candidates, damage):
    measure_candidates(candidates, Limits(), CountingMeter("torch"), store=store)
    broken = sorted(store.folder.iterdir())[0]
    broken.write_text(damage(broken.read_text()))
    profiler = CountingMeter("torch")
    outcome = measure_candidates(candidates, Limits(), profiler, store=store)
    assert len(profiler.asked) == 1
    assert [note.partition(": ")[2] for note in outcome.notes] == ["the measurement is damaged; measuring again"]
    assert measure_candidates(candidates, Limits(), CountingMeter("torch"), store=store).measured == 0


def test_bytes_that_are_no_text(store, candidates):
    measure_candidates(candidates, Limits(), CountingMeter("torch"), store=store)
    sorted(store.folder.iterdir())[0].write_bytes(b"\xff\xfe\x00")
    outcome = measure_candidates(candidates, Limits(), CountingMeter("torch"), store=store)
    assert outcome.measured == 1
    assert "measuring again" in outcome.notes[0]


def test_a_store_that_cannot_be_written_costs_no_answer(tmp_path, candidates):
    (tmp_path / "file").write_text("")
    outcome = measure_candidates(
        candidates, Limits(), CountingMeter("torch"), store=MeasurementCache(tmp_path / "file" / "here")
    )
    assert outcome.measured > 0
    assert any("is not saved" in note for note in outcome.notes)


def test_time_is_up(store, candidates, monkeypatch):
    clock = iter(range(0, 10_000, 10))
    monkeypatch.setattr(latency.time, "perf_counter", lambda: next(clock))
    outcome = measure_candidates(candidates, Limits(), CountingMeter("torch"), store=store, budget=1)
    assert outcome.measured == 1
    assert outcome.open
    assert not outcome.skipped


def test_cheap_limits_come_before_measuring(store, candidates):
    profiler = CountingMeter("torch")
    assert measure_candidates(candidates, Limits(max_params=1e6), profiler, store=store).measured == 0
    assert profiler.asked == []


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_a_network_is_really_measured(engine):
    network = list_candidates("tf_mobilenetv1_025.keras_r128_in1k")[0][0].network
    timing = LatencyProfiler(engine, batch=2, threads=1, seconds=0.1).measure(network)
    assert len(timing.samples) >= 3
    assert timing.median > 0


def test_every_network_is_compiled(monkeypatch, tmp_path):
    compile_module, compiled = torch.compile, []

    def backend(graph, _inputs):
        compiled[-1] += 1
        return graph.forward

    monkeypatch.setattr(torch, "compile", lambda module, **_options: compile_module(module, backend=backend))
    table = tmp_path / "small.yaml"
    table.write_text("small: {stem: 8, num_classes: 4, blocks: [dsa_r1_k3_s1_c8]}\n")
    with torch._dynamo.config.patch(recompile_limit=1):
        for _ in range(2):
            compiled.append(0)
            LatencyProfiler("torch-compile", threads=1, seconds=0.01).measure(Network(str(table), 32, ""))
    assert min(compiled) > 0, "timed without having been compiled"
    torch.compiler.reset()


def test_each_engine_is_measured_with_its_own_rewrites():
    for engine in ("torch", "torch-compile", "onnxruntime"):
        assert LatencyProfiler(engine)._rewrites == preset(engine)


def test_no_engine(monkeypatch):
    monkeypatch.setattr(latency, "available_engines", list)
    monkeypatch.setattr(latency, "find_spec", lambda package: None)  # noqa: ARG005
    with pytest.raises(EngineError, match=r"no engine is installed; install with: pip install 'effnets\[export\]'"):
        pick_engine()
    with pytest.raises(EngineError, match="the engine openvino is not installed"):
        pick_engine("openvino")


def test_an_engine_without_what_exports(monkeypatch):
    monkeypatch.setattr(latency, "find_spec", lambda package: package == "onnxruntime" or None)
    with pytest.raises(EngineError, match="measuring on onnxruntime needs onnx and onnxscript"):
        pick_engine("onnxruntime")


@pytest.mark.parametrize("name", ["tensorflow", "aotinductor", "onnxruntime-cuda"])
def test_an_engine_that_cannot_be_chosen(name):
    with pytest.raises(ArgumentError, match="choose auto or one of onnxruntime, openvino, litert, executorch, torch"):
        pick_engine(name)
