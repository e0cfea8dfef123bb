"""Pictures of colored rectangles, as data sets of boxes in every form, and a detector that sees these colors."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

COLORS = {"cat": (220, 30, 30), "dog": (30, 30, 220)}
CLASSES = tuple(COLORS)
SIZE = (64, 48)

# Class, and x1, y1, x2, y2 in pixels.
Object = tuple[str, int, int, int, int]


@dataclass
class Scene:
    """A picture, and what it shows."""

    name: str
    objects: list[Object]
    size: tuple[int, int] = SIZE
    tags: dict[int, str] = field(default_factory=dict)

    def image(self) -> Image.Image:
        return draw_scene(self.objects, self.size)

    def png(self) -> bytes:
        file = io.BytesIO()
        self.image().save(file, "PNG")
        return file.getvalue()


def draw_scene(objects: Sequence[Object], size: tuple[int, int] = SIZE) -> Image.Image:
    pixels = np.full((size[1], size[0], 3), 120, np.uint8)
    for name, x1, y1, x2, y2 in objects:
        pixels[y1:y2, x1:x2] = COLORS[name]
    return Image.fromarray(pixels)


def scenes(count: int, seed: int = 0, prefix: str = "scene") -> list[Scene]:
    """Pictures with at most one object of each class, side by side; the third of every four shows nothing."""
    generator = np.random.default_rng(seed)
    found = []
    for number in range(count):
        objects: list[Object] = []
        for place, name in enumerate(CLASSES if number % 4 != 2 else ()):
            if number % 4 == 1 and name == "dog":
                continue
            x1, y1 = (int(value) for value in generator.integers(1, 8, 2))
            width, height = (int(value) for value in generator.integers(10, 20, 2))
            objects.append((name, 32 * place + x1, y1, 32 * place + x1 + width, y1 + height))
        found.append(Scene(f"{prefix}{number:03}", objects))
    return found


def splits() -> dict[str, list[Scene]]:
    return {
        "train": scenes(8, 1, "train"),
        "val": scenes(4, 2, "val"),
        "test": scenes(4, 3, "test"),
    }


def xml(scene: Scene, size: tuple[int, int] | None = None, filename: str | None = None) -> str:
    """VOC's annotation: pixels from 1, the last ones included."""
    width, height = size or scene.size
    lines = [
        "<annotation>",
        f"<filename>{filename or scene.name + '.png'}</filename>",
        f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>",
    ]
    for name, x1, y1, x2, y2 in scene.objects:
        lines += [
            "<object>",
            f"<name>{name}</name><difficult>0</difficult>",
            f"<bndbox><xmin>{x1 + 1}</xmin><ymin>{y1 + 1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox>",
            "</object>",
        ]
    return "\n".join([*lines, "</annotation>"])


def voc_files(parts: Mapping[str, Sequence[Scene]]) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    for split, listed in parts.items():
        files[f"ImageSets/Main/{split}.txt"] = "".join(f"{scene.name}\n" for scene in listed).encode()
        for scene in listed:
            files[f"JPEGImages/{scene.name}.png"] = scene.png()
            files[f"Annotations/{scene.name}.xml"] = xml(scene).encode()
    return files


def coco_content(listed: Sequence[Scene]) -> dict[str, list[dict]]:
    """A COCO file's; ids of categories are 3 and 7, of images from 100."""
    categories = [{"id": 3, "name": "cat", "supercategory": "pet"}, {"id": 7, "name": "dog", "supercategory": "pet"}]
    images, annotations = [], []
    for number, scene in enumerate(listed, 100):
        width, height = scene.size
        images.append({"id": number, "file_name": f"{scene.name}.png", "width": width, "height": height})
        for name, x1, y1, x2, y2 in scene.objects:
            ident = categories[CLASSES.index(name)]["id"]
            box = [x1, y1, x2 - x1, y2 - y1]
            annotations.append(
                {"id": len(annotations) + 1, "image_id": number, "category_id": ident, "bbox": box, "iscrowd": 0}
            )
    return {"images": images, "annotations": annotations, "categories": categories}


def coco_files(parts: Mapping[str, Sequence[Scene]]) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    for split, listed in parts.items():
        files[f"annotations/instances_{split}2017.json"] = json.dumps(coco_content(listed)).encode()
        files |= {f"{split}2017/{scene.name}.png": scene.png() for scene in listed}
    return files


def yolo_line(item: Object, size: tuple[int, int] = SIZE) -> str:
    name, x1, y1, x2, y2 = item
    width, height = size
    values = ((x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height)
    return " ".join(map(str, (CLASSES.index(name), *values)))


def yolo_files(parts: Mapping[str, Sequence[Scene]]) -> dict[str, bytes]:
    files = {"data.yaml": b"path: ../pets\ntrain: images/train\nval: images/val\nnc: 2\nnames: [cat, dog]\n"}
    for split, listed in parts.items():
        for scene in listed:
            files[f"images/{split}/{scene.name}.png"] = scene.png()
            text = "".join(f"{yolo_line(item, scene.size)}\n" for item in scene.objects)
            files[f"labels/{split}/{scene.name}.txt"] = text.encode()
    return files


FORMS = {"voc": voc_files, "coco": coco_files, "yolo": yolo_files}


def colored_box(image: np.ndarray, name: str) -> list[float] | None:
    """The box around all pixels of a class's color, [H, W, 3]; None if there are none."""
    distance = np.abs(image.astype(int) - np.array(COLORS[name])).max(axis=2)
    rows, columns = np.nonzero(distance < 60)
    if not len(rows):
        return None
    return [float(columns.min()), float(rows.min()), float(columns.max() + 1), float(rows.max() + 1)]


class ColorDetector(nn.Module):
    """Finds one box of each color, as torchvision's detectors answer; the parameter is there to have a device.

    Args:
        class_names: in the order of its labels.
        shift: in pixels, of all boxes to the right, so that they overlap less.
    """

    def __init__(self, class_names: Sequence[str] = CLASSES, shift: float = 0.0) -> None:
        super().__init__()
        self.class_names = tuple(class_names)
        self.shift = nn.Parameter(torch.tensor(float(shift)))
        self.batches: list[int] = []

    def forward(self, images: list[Tensor]) -> list[dict[str, Tensor]]:
        assert not self.training
        self.batches.append(len(images))
        answers = []
        for image in images:
            assert image.dtype == torch.float32
            assert float(image.max()) <= 1
            pixels = (255 * image).round().to(torch.uint8).permute(1, 2, 0).numpy()
            found = [
                (label, box) for label, name in enumerate(self.class_names, 1) if (box := colored_box(pixels, name))
            ]
            boxes = torch.tensor([box for _, box in found]).reshape(-1, 4)
            labels = torch.tensor([label for label, _ in found], dtype=torch.int64)
            shift = torch.tensor([1.0, 0, 1, 0]) * self.shift
            answers.append({"boxes": boxes + shift, "labels": labels, "scores": 0.9 - 0.1 * (labels - 1)})
        return answers
