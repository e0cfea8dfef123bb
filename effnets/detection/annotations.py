"""Open a data set of images with labeled boxes: COCO, Pascal VOC or YOLO, in folders or tar archives. Free of torch."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from effnets.data.checks import Check, affordable_check, allowed_corrupt, duplicate_notes, reasons, without_corrupt
from effnets.data.dataset import ImageDataset, Subset
from effnets.data.open import EvaluationData
from effnets.data.splits import ALL, default_val_share, named, split_validation
from effnets.detection.coco import read_coco
from effnets.detection.dataset import BoxDataset, BoxSplits, BoxTable
from effnets.detection.records import ImageRecord, RawBoxes, check_total
from effnets.detection.tree import FileTree, FolderTree, TarTree
from effnets.detection.voc import read_voc
from effnets.detection.yolo import names_file, read_yolo
from effnets.errors import DataError, MissingFileError
from effnets.inference.image import image_size, image_turn
from effnets.utils.machine import cpu_count
from effnets.utils.threads import map_in_order

_Scalar = TypeVar("_Scalar", bound=np.generic)

_KINDS = "a folder or a .tar of COCO's, Pascal VOC's or YOLO's form, or a COCO .json with its images beside it"
_CORRUPT_LIMIT = 0.05
_OVER = "over the edge"
_KEPT = 5  # messages
_EDGE = 1.0  # pixel; programs round, and count from 0 or from 1


def open_boxes(
    data: str | os.PathLike[str],
    *,
    val_share: float | None = None,
    seed: int = 0,
    strict: bool = False,
    check: Check = "quick",
    progress: Callable[[str, float], object] | None = None,
) -> BoxSplits:
    """Open a data set of images with labeled boxes.

    Boxes are brought to pixels of the upright image. Those that reach over its edge are cut there; those without area,
    outside of the image, or with NaN are left out, at most 5 % of all or 3, as are corrupt images. Notes name both.
    Everything else that is wrong with a file is an error. An image may be without boxes.

    Args:
        data: a folder, or a .tar that stays packed: of Pascal VOC's form (Annotations, JPEGImages, ImageSets/Main; or
            XML files beside the images), of COCO's (JSON files, one for each split), or of YOLO's (images, labels,
            data.yaml or classes.txt). Or one COCO .json, with its images in its folder or below.
        val_share: part of the training images to validate with if the data has no validation images; 0 for none. By
            default a tenth, or a twentieth if the data has test images.
        seed: of the draw of the validation images.
        strict: raise an error for a box or an image that would be left out, and for a box to cut.
        check: how images are checked beforehand, as of `effnets.data.DataConfig`.
        progress: called with a description of the current step and its share done, 0 to 1.

    Raises:
        MissingFileError: if the data does not exist.
        DataError: if it is damaged, of no known form, or has no box to train on or to validate with; the message has
            file and line.
        ArgumentError: if val_share is out of its range.
    """
    tree, raw = _read(Path(data))
    records = dict(raw.records)
    if ALL in records:
        records["train"] = records.pop(ALL)
    datasets, notes = _check_all(records, raw, tree, check, progress, strict=strict)
    if "train" in datasets and "val" not in datasets:
        share = default_val_share(datasets) if val_share is None else val_share
        train, val, more = split_validation(datasets["train"], share, seed)
        notes += more
        assert isinstance(train, BoxDataset), "as all its subsets"
        datasets["train"] = train
        if isinstance(val, BoxDataset):
            datasets["val"] = val
    if "val" in datasets and not datasets["val"].box_counts().sum():
        raise DataError(
            f"{tree.origin}: has no box in val, so that no epoch could be found to be the best; label its images, or "
            "give another val_share, 0 for none"
        )
    if check != "none":
        notes += duplicate_notes({split: datasets[split] for split in ("train", "val", "test") if split in datasets})
    return BoxSplits(
        train=datasets.get("train"), val=datasets.get("val"), test=datasets.get("test"), notes=tuple(notes)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationBoxes(EvaluationData):
    """Images with boxes to evaluate on, as of `effnets.data.EvaluationData`."""

    source: BoxDataset


def open_evaluation_boxes(
    data: str | os.PathLike[str],
    *,
    strict: bool = False,
    progress: Callable[[str, float], object] | None = None,
) -> EvaluationBoxes:
    """Open the images with boxes to evaluate on: those of test, else of val, else, without splits, all.

    Arguments and errors are those of `open_boxes`; training images only are an error.
    """
    tree, raw = _read(Path(data))
    split = next((split for split in ("test", "val", ALL) if split in raw.records), None)
    if split is None:
        raise DataError(
            f"{tree.origin}: has training images only; put images that no detector was trained on into test or val"
        )
    datasets, notes = _check_all({split: raw.records[split]}, raw, tree, "quick", progress, strict=strict)
    return EvaluationBoxes(split=split, source=datasets[split], notes=tuple(notes))


def _check_all(
    records: Mapping[str, Sequence[ImageRecord]],
    raw: RawBoxes,
    tree: FileTree,
    check: Check,
    progress: Callable[[str, float], object] | None,
    *,
    strict: bool,
) -> tuple[dict[str, BoxDataset], list[str]]:
    """Return the readable images of each split with their good boxes, and notes."""
    progress = progress or (lambda _step, _share: None)
    check_total((record for listed in records.values() for record in listed), tree.origin)
    notes = list(raw.notes)
    datasets: dict[str, BoxDataset] = {}
    for split, listed in records.items():
        datasets[split], more = _check_split(split, listed, raw, tree, check, progress, strict=strict)
        notes += more
    return datasets, notes + _class_notes(datasets, tree.origin)


def _read(path: Path) -> tuple[FileTree, RawBoxes]:
    """Return the files of a data set, and what its annotations say."""
    if not path.exists():
        raise MissingFileError(f"{path} does not exist; check its spelling and the current folder")
    suffix = path.suffix.lower()
    if path.is_file() and suffix == ".json":
        around = path.parent.parent if path.parent.name.lower() == "annotations" else path.parent
        tree: FileTree = FolderTree(around)
        return tree, read_coco(tree, path.relative_to(around).as_posix())
    if path.is_file() and suffix in (".yaml", ".yml"):
        path = path.parent
    if path.is_dir():
        tree = FolderTree(path)
    elif suffix in (".tar", ".tgz", ".gz", ".xz", ".bz2", ".zst"):
        tree = TarTree(path)
    else:
        raise DataError(f"{path}: is not a known kind of data set; give {_KINDS}")
    yolo = names_file(tree) is not None and bool(tree.ending(".txt"))
    voc = bool(tree.ending(".xml"))
    if yolo and voc:
        raise DataError(f"{path}: holds annotations of YOLO's and Pascal VOC's form; move those of one away")
    if yolo:
        return tree, read_yolo(tree)
    if voc:
        return tree, read_voc(tree)
    if tree.ending(".json"):
        return tree, read_coco(tree)
    hint = "; add data.yaml or classes.txt with the names of the classes" if tree.ending(".txt") else ""
    raise DataError(f"{path}: has no annotations (.xml, .json, or .txt with data.yaml); give {_KINDS}{hint}")


def _check_split(
    split: str,
    records: Sequence[ImageRecord],
    raw: RawBoxes,
    tree: FileTree,
    check: Check,
    progress: Callable[[str, float], object],
    *,
    strict: bool,
) -> tuple[BoxDataset, list[str]]:
    """Return the readable images of a split with their good boxes, and notes."""
    images = tree.dataset([record.file for record in records], raw.class_names)
    check, notes = affordable_check(check, {split: images})
    kept, more = without_corrupt(split, images, check=check, limit=_CORRUPT_LIMIT, strict=strict, progress=progress)
    indices = kept.indices if isinstance(kept, Subset) else np.arange(len(images))
    checker = _BoxChecker(split, strict=strict)
    sizes = np.zeros((len(indices), 2), np.int64)
    tables: list[tuple[NDArray[np.float32], NDArray[np.bool_]]] = []
    headers = map_in_order(lambda index: _upright_size(images, index), indices, workers=cpu_count(), ahead=64)
    for place, (index, size) in enumerate(zip(indices, headers, strict=True)):
        progress(f"checking the boxes of {split}", place / len(indices))
        record = records[index]
        sizes[place] = size
        boxes = record.boxes * np.tile(size, 2) if raw.relative else _turned(record, images, int(index), size)
        tables.append(checker(record, boxes, size))
    chosen = [records[index] for index in indices]
    table = BoxTable(
        ends=np.cumsum([int(good.sum()) for _, good in tables], dtype=np.int64),
        boxes=np.concatenate([boxes for boxes, _ in tables] or [np.zeros((0, 4), np.float32)]),
        labels=_joined([record.labels[good] + 1 for record, (_, good) in zip(chosen, tables, strict=True)], np.int64),
        crowd=_joined([record.crowd[good] for record, (_, good) in zip(chosen, tables, strict=True)], np.bool_),
        difficult=_joined([record.difficult[good] for record, (_, good) in zip(chosen, tables, strict=True)], np.bool_),
    )
    return BoxDataset(kept, raw.class_names, sizes, table), [*notes, *more, *checker.notes()]


def _joined(arrays: Sequence[NDArray[_Scalar]], dtype: type[_Scalar]) -> NDArray[_Scalar]:
    return np.concatenate([np.zeros(0, dtype), *arrays])


def _upright_size(images: ImageDataset, index: int) -> tuple[int, int]:
    return image_size(images.read(index), images.name(index))


def _turned(record: ImageRecord, images: ImageDataset, index: int, size: tuple[int, int]) -> NDArray[np.float64]:
    """Return a record's boxes in the upright image, also if they were drawn on what the camera stored.

    Raises:
        DataError: if the annotations state another size than the image has.
    """
    if record.size is None or record.size == size:
        return record.boxes
    turn = image_turn(images.read(index)) if record.size == size[::-1] else None
    if turn is None:
        stated = "{}×{}".format(*record.size)
        raise DataError(
            f"{record.source}: says that {record.file} has {stated} pixels, but it has {size[0]}×{size[1]}, so that "
            "its boxes may be of another image; correct the size, or bring the image to it"
        )
    return turn_boxes(record.boxes, turn, record.size)


def turn_boxes(boxes: NDArray[np.float64], turn: Image.Transpose, size: tuple[int, int]) -> NDArray[np.float64]:
    """Return boxes [n, 4] (x1, y1, x2, y2) as they are after `turn` of an image of `size`, (width, height)."""
    width, height = size
    corners = boxes.reshape(-1, 2, 2)
    x, y = corners[..., 0], corners[..., 1]
    kinds = Image.Transpose
    x, y = {
        kinds.FLIP_LEFT_RIGHT: (width - x, y),
        kinds.ROTATE_180: (width - x, height - y),
        kinds.FLIP_TOP_BOTTOM: (x, height - y),
        kinds.TRANSPOSE: (y, x),
        kinds.ROTATE_270: (height - y, x),
        kinds.TRANSVERSE: (height - y, width - x),
        kinds.ROTATE_90: (y, width - x),
    }[turn]
    return np.stack([x.min(axis=1), y.min(axis=1), x.max(axis=1), y.max(axis=1)], axis=1)


@dataclass(slots=True)
class _BoxChecker:
    """Cuts boxes at the edge of their images, and leaves bad ones out.

    Attributes:
        split: name of the images, for messages.
        strict: raise an error instead.
    """

    split: str
    strict: bool
    total: int = 0
    bad: list[str] = field(default_factory=list)  # the first messages; how many there are is in `kinds`
    cut: list[str] = field(default_factory=list)
    kinds: Counter[str] = field(default_factory=Counter)

    def __call__(
        self, record: ImageRecord, boxes: NDArray[np.float64], size: tuple[int, int]
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Return the good boxes [m, 4], and which of a record's boxes they are, [n].

        Raises:
            DataError: with `strict`, for the first bad box, or one that is cut.
        """
        self.total += len(boxes)
        limits = np.tile(np.array(size, np.float64), 2)
        finite = np.asarray(np.isfinite(boxes).all(axis=1), np.bool_)
        with np.errstate(invalid="ignore"):
            area = np.asarray((boxes[:, 2:] > boxes[:, :2]).all(axis=1), np.bool_)
            whole = np.clip(boxes, 0, limits)
            inside = (whole[:, 2:] > whole[:, :2]).all(axis=1)
            over = ((boxes < -_EDGE) | (boxes > limits + _EDGE)).any(axis=1)
        good = np.asarray(finite & area & inside, np.bool_)
        for index in np.flatnonzero(~good):
            kind = "with NaN or infinity" if not finite[index] else "without area" if not area[index] else "outside"
            self._note(self.bad, record, int(index), boxes[index], kind, size)
        for index in np.flatnonzero(good & over):
            self._note(self.cut, record, int(index), boxes[index], _OVER, size)
        return whole[good].astype(np.float32), good

    def _note(
        self,
        notes: list[str],
        record: ImageRecord,
        index: int,
        box: NDArray[np.float64],
        kind: str,
        size: tuple[int, int],
    ) -> None:
        self.kinds[kind] += 1
        if len(notes) == _KEPT:
            return
        corners = ", ".join(f"{value:g}" for value in box)
        of = f" of the {size[0]}×{size[1]} pixels" if kind in ("outside", _OVER) else ""
        message = f"{record.where(index)}: the box ({corners}) of {record.file} is {kind}{of}"
        if self.strict:
            raise DataError(f"{message}; correct or remove it, or leave strict out")
        notes.append(message)

    def notes(self) -> list[str]:
        """Return what was left out and cut.

        Raises:
            DataError: if too many boxes were left out.
        """
        allowed, cut = allowed_corrupt(self.total, _CORRUPT_LIMIT), self.kinds[_OVER]
        bad = self.kinds.total() - cut
        if bad > allowed:
            raise DataError(
                f"{self.split}: {bad} of {self.total} boxes are bad, and {allowed} may be left out; "
                f"correct or remove them:{reasons(self.bad)}"
            )
        notes = []
        if bad:
            counts = ", ".join(f"{count} {kind}" for kind, count in self.kinds.items() if count and kind != _OVER)
            notes.append(f"left out of {self.split}: {_boxes(bad)} ({counts}); {self.bad[0]}")
        if cut:
            notes.append(f"cut at the image's edge in {self.split}: {_boxes(cut)}; {self.cut[0]}")
        return notes


def _boxes(count: int) -> str:
    return f"{count} box{'es' * (count != 1)}"


def _class_notes(datasets: dict[str, BoxDataset], origin: str) -> list[str]:
    """Return notes on classes and images without boxes.

    Raises:
        DataError: if there is no box to train on, or none at all.
    """
    notes = []
    for split, dataset in datasets.items():
        counts = dataset.box_counts()
        if not counts.sum() and (split == "train" or len(datasets) == 1):
            raise DataError(f"{origin}: has no box in {split}, so that there is nothing to learn; label its images")
        if empty := [dataset.class_names[label] for label in np.flatnonzero(counts == 0)]:
            notes.append(f"{split} has no box of {named('class', empty)}")
        if bare := int((dataset.table.counts() == 0).sum()):
            notes.append(f"{split} has {bare} image{'s' * (bare != 1)} without boxes: taken as showing nothing")
    return notes
