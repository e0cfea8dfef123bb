"""Checkpoint files: what is read, and what is refused without harm."""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import sys
from collections import OrderedDict

import pytest
import torch
from safetensors.torch import save_file

from effnets.errors import MissingFileError, WeightsError
from effnets.weights.files import read_checkpoint, write_checkpoint

TENSORS = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(2, dtype=torch.float16)}


def test_safetensors_with_header(tmp_path):
    path = tmp_path / "w.safetensors"
    save_file(TENSORS, path, metadata={"padding": "same"})
    checkpoint = read_checkpoint(path)
    assert checkpoint.header == {"padding": "same"}
    assert checkpoint.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert checkpoint.tensors["a.bias"].dtype == torch.float16
    torch.testing.assert_close(dict(checkpoint.tensors), TENSORS, rtol=0, atol=0)


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin"])
def test_pickled_state_dict(tmp_path, suffix):
    path = tmp_path / f"w{suffix}"
    torch.save(OrderedDict(TENSORS), path)
    checkpoint = read_checkpoint(str(path))
    torch.testing.assert_close(dict(checkpoint.tensors), TENSORS, rtol=0, atol=0)
    assert checkpoint.notes == ()


@pytest.mark.parametrize("wrapper", ["state_dict", "model", "model_state_dict", "state_dict_ema"])
def test_training_checkpoints_are_unwrapped_and_say_so(tmp_path, wrapper):
    path = tmp_path / "w.pth"
    torch.save({wrapper: TENSORS, "epoch": 3}, path)
    checkpoint = read_checkpoint(path)
    assert set(checkpoint.tensors) == set(TENSORS)
    assert wrapper in checkpoint.notes[-1]


def test_averaged_weights_are_taken_only_where_they_are_asked_for(tmp_path):
    path = tmp_path / "w.pth"
    averaged = {name: tensor + 1 for name, tensor in TENSORS.items()}
    torch.save({"state_dict": TENSORS, "state_dict_ema": averaged}, path)
    plain = read_checkpoint(path)
    torch.testing.assert_close(dict(plain.tensors), TENSORS)
    assert "the file also holds averaged weights ('state_dict_ema'); choose them with ema=True (--ema)" in plain.notes
    torch.testing.assert_close(dict(read_checkpoint(path, ema=True).tensors), averaged)


def test_prefixes_of_wrapping_modules_are_taken_off(tmp_path):
    path = tmp_path / "w.safetensors"
    save_file({f"_orig_mod.module.{name}": tensor for name, tensor in TENSORS.items()}, path)
    checkpoint = read_checkpoint(path)
    assert set(checkpoint.tensors) == set(TENSORS)
    assert len(checkpoint.notes) == 2


@pytest.mark.parametrize(
    ("tensor", "kind"),
    [
        (lambda: torch.zeros(2, 3).to_sparse(), "float32 sparse_coo"),
        (lambda: torch.empty(2, 3, device="meta"), "meta"),
        (lambda: torch.quantize_per_tensor(torch.ones(2, 3), 0.1, 0, torch.qint8), "qint8"),
        (lambda: torch.zeros(2, 3, dtype=torch.complex64), "complex64"),
    ],
    ids=["sparse", "meta", "quantised", "complex"],
)
@pytest.mark.filterwarnings("ignore")
def test_tensors_that_hold_no_plain_numbers(tmp_path, tensor, kind):
    path = tmp_path / "w.pth"
    torch.save({"a.weight": tensor()}, path)
    with pytest.raises(WeightsError, match=f"a.weight is a {kind}.* tensor; save plain dense real|refused"):
        read_checkpoint(path)


def test_what_is_no_regular_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.safetensors")
    with pytest.raises(WeightsError, match=r"pipe\.safetensors: is not a regular file"):
        read_checkpoint(tmp_path / "pipe.safetensors")
    with pytest.raises(WeightsError, match=r"cannot be read \(File name too long\)"):
        read_checkpoint(tmp_path / ("a" * 300 + ".pth"))


def test_the_suffix_may_be_large(tmp_path):
    write_checkpoint(tmp_path / "W.SAFETENSORS", TENSORS, {})
    assert set(read_checkpoint(tmp_path / "W.SAFETENSORS").tensors) == set(TENSORS)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_damaged_pickles_end_in_the_project_s_own_error(tmp_path, legacy):
    good = tmp_path / "good.pth"
    torch.save(TENSORS, good, _use_new_zipfile_serialization=not legacy)
    content = good.read_bytes()
    draw = random.Random(7)
    path = tmp_path / "bad.pth"
    refused = 0
    for _ in range(400):
        damaged = bytearray(content)
        for _ in range(draw.randint(1, 8)):
            damaged[draw.randrange(len(damaged))] = draw.randrange(256)
        path.write_bytes(damaged)
        try:
            read_checkpoint(path)
        except WeightsError:
            refused += 1
    assert refused > 50


def test_missing_file(tmp_path):
    with pytest.raises(MissingFileError, match=r"gone\.pth: no such weights file"):
        read_checkpoint(tmp_path / "gone.pth")


def test_folder(tmp_path):
    with pytest.raises(WeightsError, match="is a folder; name the weights file in it"):
        read_checkpoint(tmp_path)


def test_unknown_suffix(tmp_path):
    path = tmp_path / "w.npz"
    path.write_bytes(b"x")
    with pytest.raises(WeightsError, match=r"unknown kind of weights file '\.npz'; known are \.safetensors"):
        read_checkpoint(path)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("kept", [0, 7, 100, -1])
def test_cut_files_are_refused(tmp_path, suffix, kept):
    path = tmp_path / f"w{suffix}"
    save_file(TENSORS, path) if suffix == ".safetensors" else torch.save(TENSORS, path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(WeightsError, match=r"w\.(safetensors|pth): (not a whole|refused)"):
        read_checkpoint(path)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_text_is_refused(tmp_path, suffix):
    path = tmp_path / f"w{suffix}"
    path.write_text("<html>404: not found</html>")
    with pytest.raises(WeightsError, match=r"w\.(safetensors|pth): (not a whole|refused)"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "holds a list, not a state dict"),
        ({"a": 1, "b": "c"}, "not a state dict: a, b are not tensors"),
        ({}, "holds no tensors"),
    ],
)
def test_what_is_no_state_dict(tmp_path, content, message):
    path = tmp_path / "w.pth"
    torch.save(content, path)
    with pytest.raises(WeightsError, match=message):
        read_checkpoint(path)


def test_equal_weights_make_equal_files(tmp_path):
    """safetensors alone writes a header in an order drawn anew each time."""
    path = tmp_path / "w.safetensors"
    tensors = {"a.weight": torch.arange(3, dtype=torch.float16), "b": torch.ones(2, 5), "é": torch.tensor(7)}
    header = {f"key {number}": "Straße" for number in range(20)}
    written = set()
    for _ in range(5):
        write_checkpoint(path, tensors, header)
        written.add(path.read_bytes())
    assert len(written) == 1
    assert (8 + int.from_bytes(written.pop()[:8], "little")) % 8 == 0
    checkpoint = read_checkpoint(path)
    assert checkpoint.header == {"format": "pt", **header}
    assert checkpoint.tensors.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert checkpoint.tensors[name].dtype == tensor.dtype
        assert checkpoint.tensors[name].equal(tensor)


def test_writing_replaces_whole_files_only(tmp_path):
    path = tmp_path / "w.safetensors"
    write_checkpoint(path, TENSORS, {"model": "x"})
    write_checkpoint(path, {"b": torch.zeros(3)}, {})
    assert set(read_checkpoint(path).tensors) == {"b"}
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_leaves_the_old_file(tmp_path):
    """The process may write 1 MB at most; the file it was to replace stays as it was, and nothing else is left."""
    path = tmp_path / "w.safetensors"
    write_checkpoint(path, TENSORS, {})
    before = path.read_bytes()
    program = (
        "import resource, signal, sys, torch\n"
        "from effnets.errors import WeightsError\n"
        "from effnets.weights.files import write_checkpoint\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))\n"
        "try:\n"
        "    write_checkpoint(sys.argv[1], {'big': torch.zeros(1 << 20)}, {})\n"
        "except WeightsError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True)
    assert "w.safetensors: cannot be written (File too large)" in done.stdout
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_others_may_read_what_the_umask_lets_them(tmp_path, umask):
    path = tmp_path / "w.safetensors"
    before = os.umask(umask)
    try:
        write_checkpoint(path, TENSORS, {})
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o666 & ~umask


def test_writing_into_a_missing_folder(tmp_path):
    with pytest.raises(WeightsError, match="cannot be written"):
        write_checkpoint(tmp_path / "gone" / "w.safetensors", TENSORS, {})


def test_writing_wants_the_suffix(tmp_path):
    with pytest.raises(WeightsError, match=r"written as \.safetensors"):
        write_checkpoint(tmp_path / "w.npz", TENSORS, {})


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin"])
def test_written_pickles_are_plain_state_dicts(tmp_path, suffix):
    path = tmp_path / f"w{suffix}"
    write_checkpoint(path, TENSORS, {"model": "x"})
    content = torch.load(path, weights_only=True)
    assert type(content) is dict
    torch.testing.assert_close(content, TENSORS, rtol=0, atol=0)
