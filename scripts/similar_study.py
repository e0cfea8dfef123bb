"""How often the photo most like another shows the same kind of thing, beside a search by timm's features.

Each test photo of grocery20 is searched for among the other test photos (leave-one-out); it prints the share whose
nearest one is of its class, for each of the MobileNets of the shared folder.
"""

from __future__ import annotations

import argparse
import re
import tarfile
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from timm.data import create_transform
from timm.models import efficientnet, load_checkpoint
from torch import nn

import effnets
from effnets.embeddings.neighbors import nearest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shared", type=Path, help="the folder with data/grocery20.tar and weights/")
    parser.add_argument("--weights", default="tf_mobilenet*.timm.safetensors", help="pattern of their file names")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        with tarfile.open(arguments.shared / "data" / "grocery20.tar") as archive:
            archive.extractall(name, filter="data")
        photos = sorted(Path(name).glob("*/test/*/*.jpg"))
        classes = np.array([photo.parent.name for photo in photos])
        print("| weights | effnets | timm | same neighbor |\n|---|---:|---:|---:|")
        for weights in sorted((arguments.shared / "weights").glob(arguments.weights)):
            model, size = re.fullmatch(r"(.+)_(\d+)", weights.name.partition(".")[0]).groups()
            network = effnets.create_model(model, weights=weights)
            own = neighbors(effnets.embed(network, photos))
            peer = neighbors(timm_features(model, weights, int(size), photos))
            shares = [100 * np.mean(classes[found] == classes) for found in (own, peer)]
            print(f"| `{model}`, {size} | {shares[0]:.1f} % | {shares[1]:.1f} % | {100 * np.mean(own == peer):.1f} % |")


def neighbors(vectors: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return the row of each vector's nearest other one."""
    rows = nearest(vectors, vectors, 2)[1]
    return np.where(rows[:, 0] == np.arange(len(rows)), rows[:, 1], rows[:, 0])


def timm_network(model: str, weights: Path) -> nn.Module:
    """Return timm's network with the weights of the shared folder, without its classifier."""
    make = {"v1": efficientnet._gen_mobilenet_v1, "v2": efficientnet._gen_mobilenet_v2}[model[12:14]]
    network = make(
        f"mobilenet{model[12:14]}_100",  # of the widths below 1.0, timm has its own names for few
        channel_multiplier=int(model[-3:]) / 100,
        pad_type="same",
        norm_layer=partial(nn.BatchNorm2d, eps=1e-3),
    )
    load_checkpoint(network, str(weights))
    network.reset_classifier(0)
    return network.eval()


def timm_features(model: str, weights: Path, size: int, photos: list[Path]) -> NDArray[np.float32]:
    network = timm_network(model, weights)
    transform = create_transform(size, mean=(0.5,) * 3, std=(0.5,) * 3, interpolation="bicubic", crop_pct=0.875)
    rows = []
    with torch.inference_mode():
        for photo in photos:
            with Image.open(photo) as image:
                rows.append(network(transform(image.convert("RGB"))[None])[0].numpy())
    return np.stack(rows)


if __name__ == "__main__":
    main()
