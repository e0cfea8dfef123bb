"""Ray clusters of this machine: workers that are killed, runs that are interrupted, machines that share the work."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.dataset
import pyarrow.parquet as pq
import pytest

from effnets.errors import EngineError
from tests.support import ROOT, exported
from tests.support.data_sets import by_class, write

pytest.importorskip("ray")
psutil = pytest.importorskip("psutil")
pytestmark = [pytest.mark.full, pytest.mark.xdist_group("ray")]

TIMEOUT = 600  # s; a busy machine starts a cluster in a minute


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return exported.write(tmp_path_factory.mktemp("model") / "model.onnx", exported.describe())


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Enough that a run is still going when its first parts are seen."""
    return write(tmp_path_factory.mktemp("photos"), {**by_class(1000), "cat/bad.jpg": b"no image"})


@pytest.fixture(scope="module")
def expected(tmp_path_factory, model, photos):
    """The rows of the command without a cluster."""
    target = tmp_path_factory.mktemp("single") / "rows.parquet"
    command(photos, model, target, status=1)
    return pq.read_table(target)


def start(photos, model, target, *options):
    arguments = [str(photos), "--weights", str(model), "--output", str(target), *map(str, options)]
    program = [sys.executable, "-m", "effnets", "predict", *arguments]
    return subprocess.Popen(
        program, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def command(*arguments, status=0):
    process = start(*arguments)
    out, err = process.communicate(timeout=TIMEOUT)
    assert process.returncode == status, err
    assert out == ""
    return err


def wait_for_parts(process, target, count=2):
    folder = Path(f"{target}.part")
    deadline = time.monotonic() + TIMEOUT
    while time.monotonic() < deadline and process.poll() is None:
        if len(list(folder.glob("part-*.parquet"))) >= count:
            return
        time.sleep(0.02)
    raise AssertionError(process.communicate(timeout=60))


def workers_of(process):
    return [
        child
        for child in psutil.Process(process.pid).children(recursive=True)
        if "MapWorker" in " ".join(child.cmdline())
    ]


def rows(target):
    return pyarrow.dataset.dataset(target).to_table()


def test_a_killed_worker_leaves_every_row_once(tmp_path, model, photos, expected):
    target = tmp_path / "out"
    process = start(photos, model, target, "--ray", "--workers", 2)
    wait_for_parts(process, target)
    victims = workers_of(process)
    victims[0].send_signal(signal.SIGKILL)
    out, err = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 1, err
    assert out == ""
    assert "1 of 2001 could not be classified" in err
    assert rows(target).equals(expected)
    assert not Path(f"{target}.part").exists()


def test_an_interrupted_run_continues(tmp_path, model, photos, expected):
    target = tmp_path / "out"
    process = start(photos, model, target, "--ray", "--workers", 1)
    wait_for_parts(process, target)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 130, err
    assert "continue with --resume" in err
    assert not target.exists()
    done = {path.name: path.stat().st_mtime_ns for path in Path(f"{target}.part").glob("part-*")}
    assert "interrupted run" in command(photos, model, target, "--ray", status=1)
    command(photos, model, target, "--ray", "--resume", "--workers", 2, status=1)
    assert rows(target).equals(expected)
    assert {name: (target / name).stat().st_mtime_ns for name in done} == done
    assert "is complete" in command(photos, model, target, "--ray", "--resume")


@pytest.fixture(scope="module")
def cluster():
    """Two machines with a core each, as far as Ray knows."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["PYTHONPATH"] = str(ROOT)
    from ray.cluster_utils import Cluster

    found = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    found.add_node(num_cpus=1)
    yield found
    found.shutdown()


def test_a_cluster_of_two_machines_by_its_address(tmp_path, cluster, model, photos, expected):
    command(photos, model, tmp_path / "out", "--ray", cluster.address, status=1)
    assert rows(tmp_path / "out").equals(expected)


def test_an_evaluation_on_a_cluster(tmp_path, cluster, model):
    data = write(tmp_path / "data", {**by_class(60, ("blue", "green", "red")), "red/bad.jpg": b""})
    found = []
    for options in ([], ["--ray", cluster.address]):
        file = tmp_path / f"{len(options)}.json"
        program = [sys.executable, "-m", "effnets", "eval", str(data), "--weights", str(model), "--json", str(file)]
        subprocess.run([*program, *options], env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True, timeout=TIMEOUT)
        found.append(json.loads(file.read_text())["evaluations"][0])
    here, there = found
    for name in ("images", "top1", "top5", "broken", "classes", "confusion"):
        assert here[name] == there[name]
    assert here["loss"] == pytest.approx(there["loss"], rel=1e-12)
    assert there["workers"] == 2


class Poison:
    """Work that kills its process with one of the chunks."""

    def __call__(self, _pipeline, number, chunk):
        if chunk == "poison":
            os.kill(os.getpid(), signal.SIGKILL)
        return number


def test_a_chunk_that_kills_every_worker_ends_the_run(cluster, model):
    from effnets.bulk.cluster import joined_cluster, work_on
    from effnets.bulk.model import pack_model

    with joined_cluster(cluster.address, 1), pytest.raises(EngineError, match="part 3: 5 workers were lost with it"):
        list(work_on(Poison(), pack_model(model), [(2, "good"), (3, "poison")], workers=1))


def test_a_cluster_that_is_not_there(tmp_path, model, photos):
    err = command(photos, model, tmp_path / "out", "--ray", "127.0.0.1:1", status=1)
    assert "--ray 127.0.0.1:1: the cluster cannot be reached" in err
