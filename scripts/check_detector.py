"""Compare the boxes of an exported detector with torchvision's, on labeled photographs of its data.

    uv run scripts/check_detector.py RUN DATA [--images 24] [--least-score 0.05]

RUN is the folder of a trained SSDLite, DATA what it is measured on. Photos are resized beforehand, as the file takes
one size. A box of torchvision's is matched by the box of the same label that overlaps it most. Exits with status 1 if
one has no match with an IoU of 0.999 or more and a score within 1e-4.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import torch
from torch import Tensor
from torchvision.ops import box_iou
from torchvision.transforms.functional import pil_to_tensor

import effnets
from effnets.detection.annotations import open_evaluation_boxes

ENGINES = ("onnxruntime", "openvino")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("data")
    parser.add_argument("--images", type=int, default=24)
    parser.add_argument("--least-score", type=float, default=0.05)
    arguments = parser.parse_args()
    detector = effnets.load_detector(arguments.run)
    size = detector.settings.image_size
    source = open_evaluation_boxes(arguments.data).source
    photos = [source.image(index).resize((size, size)) for index in range(min(arguments.images, len(source)))]
    images = [pil_to_tensor(photo).float() / 255 for photo in photos]
    with torch.inference_mode():
        expected = [detector([image])[0] for image in images]
    unmatched = 0
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "detector.onnx"
        print(effnets.export_detector(detector, path))
        for name in ENGINES:
            engine = effnets.load_engine(path, name)
            ious, errors = [], []
            for image, wanted in zip(images, expected, strict=True):
                found = {key: torch.from_numpy(value) for key, value in engine.run(image[None].numpy()).items()}
                iou, error = match(wanted, found, arguments.least_score)
                ious.append(iou)
                errors.append(error)
            iou, error = torch.cat(ious), torch.cat(errors)
            missing = int(((iou < 0.999) | (error > 1e-4)).sum())
            unmatched += missing
            print(f"{name}: {len(iou) - missing} of {len(iou)} boxes of {len(images)} images are matched; "
                  f"least IoU {iou.min():.6f}, largest difference of a score {error.max():.1e}")  # fmt: skip
    sys.exit(unmatched > 0)


def match(wanted: dict[str, Tensor], found: dict[str, Tensor], least_score: float) -> tuple[Tensor, Tensor]:
    """Return the IoU and the difference of scores of each wanted box and its match, [n] each."""
    kept = wanted["scores"] >= least_score
    overlaps = box_iou(wanted["boxes"][kept], found["boxes"])
    overlaps *= wanted["labels"][kept][:, None] == found["labels"][None]
    iou, place = overlaps.max(1)
    return iou, (found["scores"][place] - wanted["scores"][kept]).abs()


if __name__ == "__main__":
    main()
