"""HDF5 files that are damaged, hostile or somebody else's: refused by name, without harm."""

from __future__ import annotations

import subprocess
import sys

import h5py
import numpy as np
import pytest

import effnets
from effnets.errors import WeightsError
from effnets.weights.files import read_checkpoint


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "w.h5"
    effnets.save_weights(effnets.create_model("tf_mobilenetv1_025", num_classes=3), path, dialect="keras")
    return path


def load(path):
    return effnets.create_model("tf_mobilenetv1_025", weights=path)


def test_text(path):
    path.write_text("<html>404: not found</html>")
    with pytest.raises(WeightsError, match=r"w\.h5: not a whole HDF5 file.*fetch it again"):
        load(path)


@pytest.mark.parametrize("kept", [0, 8, 100, 5000, -1])
def test_cut_files(path, kept):
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(WeightsError, match=r"w\.h5: not a whole HDF5 file.*fetch it again"):
        load(path)


def test_a_missing_dataset(path):
    with h5py.File(path, "a") as file:
        del file["conv_pw_1_bn/conv_pw_1_bn/beta:0"]
    message = r"w\.h5 \(keras names\) does not fit.*\n  - stages\.0\.0\.project\.bn\.bias \[16\]$"
    with pytest.raises(WeightsError, match=message):
        load(path)


def test_a_missing_layer(path):
    with h5py.File(path, "a") as file:
        del file["conv_dw_3_bn"]
    with pytest.raises(
        WeightsError, match=r"does not fit tf_mobilenetv1_025(?s:.*)- stages\.1\.1\.depthwise\.bn\.bias"
    ):
        load(path)


@pytest.mark.parametrize("shape", [(3, 3, 16), (5, 5, 8, 1), (), (1,)])
def test_wrong_shapes(path, shape):
    with h5py.File(path, "a") as file:
        del file["conv_dw_1/conv_dw_1/depthwise_kernel:0"]
        file["conv_dw_1"].create_dataset("conv_dw_1/depthwise_kernel:0", data=np.zeros(shape, np.float32))
    with pytest.raises(WeightsError, match=r"does not fit(?s:.*)\+ stages\.0\.0\.depthwise\.conv\.weight"):
        load(path)


def test_unknown_layers_and_weights(path):
    with h5py.File(path, "a") as file:
        file["conv1"].create_dataset("conv1/scale:0", data=np.zeros(3, np.float32))
    with pytest.raises(WeightsError, match=r"\+ conv1/scale \[3\]"):
        load(path)


def test_another_network(tmp_path):
    with h5py.File(tmp_path / "resnet.h5", "w") as file:
        file.create_dataset("conv1_conv/conv1_conv/kernel:0", data=np.zeros((7, 7, 3, 64), np.float32))
    with pytest.raises(WeightsError, match=r"resnet\.h5: its keys \(conv1_conv/kernel, …\) are of no known dialect"):
        load(tmp_path / "resnet.h5")


def test_an_empty_file(tmp_path):
    h5py.File(tmp_path / "empty.h5", "w").close()
    with pytest.raises(WeightsError, match=r"empty\.h5: holds no tensors"):
        load(tmp_path / "empty.h5")


@pytest.mark.parametrize("number", ["2", "-1", "x"])
def test_weights_that_no_layer_has(tmp_path, number):
    with h5py.File(tmp_path / "odd.weights.h5", "w") as file:
        file.create_dataset(f"layers/conv2d/vars/{number}", data=np.zeros((3, 3, 3, 8), np.float32))
    with pytest.raises(WeightsError, match=f"layer conv2d has a weight '{number}', which no network of the zoo has"):
        load(tmp_path / "odd.weights.h5")


def test_a_layer_that_is_none(path):
    with h5py.File(path, "a") as file:
        file.create_dataset("loose", data=np.zeros(3, np.float32))
    with pytest.raises(WeightsError, match=r"w\.h5: /loose is not a group of weights of its own"):
        load(path)


def replaced(path, make):
    """The file with its first kernel replaced by what `make` puts there."""
    with h5py.File(path, "a") as file:
        group = file["conv1/conv1"]
        del group["kernel:0"]
        make(group)
    return path


@pytest.mark.parametrize(
    "link", [h5py.ExternalLink("/etc/hostname", "/x"), h5py.SoftLink("/conv_pw_1/conv_pw_1/kernel:0")]
)
def test_links_are_not_followed(path, link):
    with pytest.raises(WeightsError, match=r"w\.h5: 'kernel:0' is a link to another place, which is not followed"):
        load(replaced(path, lambda group: group.__setitem__("kernel:0", link)))


def test_data_in_other_files_is_not_read(path, tmp_path):
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(3 * 3 * 3 * 8 * 4))
    storage = [(str(secret), 0, h5py.h5f.UNLIMITED)]
    replaced(path, lambda group: group.create_dataset("kernel:0", (3, 3, 3, 8), "f4", external=storage))
    with pytest.raises(WeightsError, match="conv1/kernel is in another file, which is not read"):
        load(path)


def test_virtual_datasets_are_not_read(path):
    layout = h5py.VirtualLayout((3, 3, 3, 8), "f4")
    layout[:] = h5py.VirtualSource(str(path.parent / "secret.h5"), "x", (3, 3, 3, 8))
    with pytest.raises(WeightsError, match="conv1/kernel is in another file, which is not read"):
        load(replaced(path, lambda group: group.create_virtual_dataset("kernel:0", layout)))


def test_chunks_are_not_believed_either(path):
    """Three numbers, in a chunk of a gigabyte that would be unpacked to reach them."""
    arguments = {"shape": (3,), "maxshape": (None,), "chunks": (1 << 28,), "dtype": "f4", "compression": "gzip"}
    with pytest.raises(WeightsError, match=r"claims more than 256 MB.*refused"):
        load(replaced(path, lambda group: group.create_dataset("kernel:0", **arguments)))


@pytest.mark.parametrize("dtype", ["i4", "u2", h5py.string_dtype(), h5py.ref_dtype, np.dtype([("a", "f4")])])
def test_anything_but_floating_point_is_refused(path, dtype):
    with pytest.raises(WeightsError, match=r"conv1/kernel is of type .*, no floating-point numbers"):
        load(replaced(path, lambda group: group.create_dataset("kernel:0", (3, 3, 3, 8), dtype)))


def test_claims_of_size_are_not_believed(path):
    """A petabyte, of which the file holds nothing."""
    replaced(path, lambda group: group.create_dataset("kernel:0", (1 << 48,), "f4", chunks=(1 << 20,)))
    with pytest.raises(WeightsError, match=r"claims more than 256 MB.*refused"):
        load(path)


def test_groups_in_a_circle(tmp_path):
    with h5py.File(tmp_path / "circle.h5", "w") as file:
        file.create_group("conv1/inner")
        file["conv1/inner/again"] = file["conv1"]
    with pytest.raises(WeightsError, match=r"circle\.h5: .* is not a group of weights of its own"):
        load(tmp_path / "circle.h5")


def test_big_endian_and_double_files(path):
    with h5py.File(path, "a") as file:
        kernel = file["conv1/conv1/kernel:0"][()]
        del file["conv1/conv1/kernel:0"]
        file["conv1"].create_dataset("conv1/kernel:0", data=kernel.astype(">f8"))
    assert (read_checkpoint(path).tensors["conv1/kernel"].numpy() == kernel).all()
    load(path)


def test_flipped_bytes_never_crash(path, tmp_path):
    """In a process of its own, for the C library's sake: every mutation loads or is refused, in little room."""
    program = (
        "import pathlib, random, sys\n"
        "from effnets.errors import WeightsError\n"
        "from effnets.weights.files import read_checkpoint\n"
        "whole = pathlib.Path(sys.argv[1]).read_bytes()\n"
        "path = pathlib.Path(sys.argv[2])\n"
        "draw = random.Random(0)\n"
        "for _ in range(60):\n"
        "    data = bytearray(whole)\n"
        "    for _ in range(draw.choice((1, 8, 64))):\n"
        "        data[draw.randrange(0, 40_000)] = draw.randrange(256)\n"
        "    path.write_bytes(data)\n"
        "    try:\n"
        "        read_checkpoint(path)\n"
        "    except WeightsError:\n"
        "        pass\n"
        "status = pathlib.Path('/proc/self/status')\n"
        "for line in status.read_text().splitlines() if status.exists() else ():\n"
        "    assert not line.startswith('VmHWM:') or int(line.split()[1]) < 1 << 20, line\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(path), str(tmp_path / "flipped.h5")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_h5py_is_named_where_it_is_missing(path, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(WeightsError, match=r"w\.h5: Keras files need h5py; run pip install 'effnets\[keras\]'"):
        load(path)


def test_nothing_of_other_frameworks_is_imported():
    program = (
        "import sys, effnets\n"
        "effnets.create_model('mobilenetv1_025')\n"
        "print([name for name in ('h5py', 'torchvision', 'transformers', 'timm') if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
