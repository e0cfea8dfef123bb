"""The table of blocks' latencies, on an engine whose time is the multiply-adds: sums, keys, what is kept, the line."""

from __future__ import annotations

import json
from dataclasses import replace
from random import Random

import pytest

from effnets.errors import ArgumentError
from effnets.search import latency_table
from effnets.search.latency_table import LatencyTable, split_network
from effnets.search.space import read_space
from effnets.spec.cost import count
from effnets.spec.models import load_spec
from effnets.spec.plan import unroll_blocks
from effnets.utils.timing import Timing


def milliseconds(spec, size):
    return count(spec, size).madds / 1e6


@pytest.fixture
def timed(monkeypatch):
    """Lists of the networks that are timed together."""
    calls = []

    def interleave(networks, *, rounds, progress, **_clock):
        calls.append([spec for spec, _ in networks.values()])
        progress(1.0)
        return {name: Timing((milliseconds(*network),) * rounds) for name, network in networks.items()}

    monkeypatch.setattr(LatencyTable, "_runner", lambda _table, spec, size: (spec, size))
    monkeypatch.setattr(latency_table, "interleave", interleave)
    return calls


@pytest.mark.parametrize(
    "name", ["mobilenetv1_025", "mobilenetv2_140", "mixnet_s", "tf_mixnet_l", "rexnet_130", "rexnet_lite_100"]
)
@pytest.mark.parametrize("size", [96, 224])
def test_the_pieces_make_up_the_network(name, size, tmp_path, timed):
    table = LatencyTable("onnxruntime", size=size, path=tmp_path)
    assert table.predict(load_spec(name)) == pytest.approx(milliseconds(load_spec(name), size))
    assert table.measured == len({piece.key for piece in split_network(load_spec(name), size)})
    assert all(len(networks) <= 33 for networks in timed)


def test_equal_blocks_are_measured_once():
    spec = load_spec("mobilenetv2_100_32px")  # six rows of equal blocks after their first
    pieces = split_network(spec, 32)
    assert [piece.name for piece in pieces[:5]] == [
        "stem at 32", "block 2 at 32", "block 3 at 32", "block 4 at 32", "block 5 at 16"
    ]  # fmt: skip
    assert pieces[-1].name == "head at 4"
    assert len(pieces) == 18
    assert len({piece.key for piece in pieces}) == 13
    assert pieces[4].key == pieces[5].key
    assert json.loads(pieces[4].key)["block"]["in_channels"] == 32


@pytest.mark.parametrize("change", [{"activation": "silu"}, {"padding": "same"}, {"num_classes": 7}])
def test_keys_have_all_that_time_depends_on(change):
    spec = load_spec("mobilenetv2_100_32px")
    here, there = ({piece.key for piece in split_network(network, 32)} for network in (spec, replace(spec, **change)))
    assert not here & there


def test_keys_ignore_names_and_rows():
    spec = load_spec("mobilenetv2_100_32px")
    rows = tuple(replace(row, repeats=1) for stage in unroll_blocks(spec) for _, row in stage)
    other = replace(spec, name="other", blocks=rows, bn_momentum=0.3, drop_rate=0.2)
    assert [piece.key for piece in split_network(other, 32)] == [piece.key for piece in split_network(spec, 32)]


def test_measurements_are_kept(tmp_path, timed):
    space = read_space("mixconv")
    specs = [space.spec(space.random(Random(seed))) for seed in (1, 2)]
    table = LatencyTable("onnxruntime", size=32, path=tmp_path)
    first = table.predict(specs[0])
    timed.clear()
    assert table.predict(specs[0]) == first
    assert not timed
    again = LatencyTable("onnxruntime", size=32, path=tmp_path)
    assert again.total(specs) == pytest.approx([milliseconds(spec, 32) for spec in specs])
    new = {p.key for p in split_network(specs[1], 32)} - {p.key for p in split_network(specs[0], 32)}
    assert again.measured == len(new)
    other = LatencyTable("onnxruntime", threads=1, size=32, path=tmp_path)
    other.predict(specs[0])
    assert other.measured == table.measured


def test_the_users_measurements_are_the_default(tmp_path, timed, monkeypatch):
    monkeypatch.setenv("EFFNETS_HOME", str(tmp_path))
    LatencyTable("onnxruntime", size=32).predict(load_spec("mobilenetv1_100_32px"))
    assert timed
    assert list((tmp_path / "measurements").glob("*.json"))


def test_durations_are_told_in_terms_of_the_reference(tmp_path, timed, monkeypatch):
    """On a machine that is half as fast later, what is measured then comes out alike."""
    spec = load_spec("mobilenetv1_100_32px")
    table = LatencyTable("onnxruntime", size=32, path=tmp_path)
    table.predict(load_spec("mobilenetv2_100_32px"))
    fast = latency_table.interleave

    def slow(networks, **settings):
        timings = fast(networks, **settings).items()
        return {name: Timing(tuple(2 * sample for sample in timing.samples)) for name, timing in timings}

    monkeypatch.setattr(latency_table, "interleave", slow)
    assert table.predict(spec) == pytest.approx(milliseconds(spec, 32))
    assert table.measure(spec) == pytest.approx(milliseconds(spec, 32))
    assert len(timed) == 3


def test_progress_rises(tmp_path, timed, monkeypatch):
    monkeypatch.setattr(latency_table, "_TOGETHER", 4)
    seen = []
    table = LatencyTable("onnxruntime", size=32, path=tmp_path, progress=lambda what, share: seen.append((share, what)))
    table.predict(load_spec("mixnet_s_32px"))
    assert [share for share, _ in seen] == sorted(share for share, _ in seen)
    assert seen[-1][0] == pytest.approx(1.0)
    assert len(timed) > 1


def test_a_line_corrects_the_sum(tmp_path, timed, monkeypatch):
    whole = staticmethod(lambda specs: [0.5 + 0.8 * milliseconds(spec, 32) for spec in specs])
    monkeypatch.setattr(LatencyTable, "measure_all", whole)
    table = LatencyTable("onnxruntime", size=32, path=tmp_path)
    names = ("mobilenetv1_100_32px", "mobilenetv2_100_32px", "mixnet_s_32px", "mixnet_xs_32px")
    specs = [load_spec(name) for name in names]
    assert table.fit(specs[:3]) == pytest.approx((0.5, 0.8))
    assert table.predict(specs[3]) == pytest.approx(table.measure(specs[3]))
    assert table.total(specs[3:]) == pytest.approx([milliseconds(specs[3], 32)])
    assert timed
    with pytest.raises(ArgumentError, match="a line is fitted to 1 different networks; give at least 3"):
        table.fit([specs[0], specs[0], specs[0]])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": 4}, "size is 4; an input has at least 8 pixels on a side"),
        ({"engine": "tensorrt"}, "engine is 'tensorrt'; choose auto or one of"),
        ({"threads": 0}, "threads is 0; it must be at least 1"),
    ],
)
def test_bad_arguments(arguments, message, tmp_path):
    with pytest.raises(ArgumentError, match=message):
        LatencyTable(**{"engine": "onnxruntime", **arguments}, path=tmp_path)


def test_a_block_is_measured_on_the_engine(tmp_path, monkeypatch):
    monkeypatch.setattr(latency_table, "_ROUNDS", 1)
    spec = replace(load_spec("mobilenetv1_100_32px"), width=0.1, blocks=load_spec("mobilenetv1_100_32px").blocks[:1])
    table = LatencyTable("torch", size=8, path=tmp_path)
    assert table.predict(spec) > 0
    assert table.measured == 1
    assert table.measure(spec) > 0
    assert len(list(tmp_path.glob("*.json"))) == 3  # the piece, the whole, and the reference
