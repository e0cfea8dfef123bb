"""Images in files on a server or on the Hub. Few files are fetched once and kept, many are streamed. Free of torch."""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from effnets.data.dataset import ImageDataset
from effnets.data.parquet import ParquetDataset, first_line
from effnets.data.splits import RawSplits, index_labels, labeled
from effnets.data.tar import Label, Member, TarDataset, index_archive, sample_place, samples_of, split_samples
from effnets.errors import ArgumentError, DataError, ImageError
from effnets.utils.atomic_file import write_whole
from effnets.utils.paths import home_dir

if TYPE_CHECKING:
    from datasets import IterableDataset

_LIMIT = "EFFNETS_SHARDS_GIB"
_TRIES = 5
_PAUSE = 0.5  # seconds before the second try; twice as long before each further one
_TIMEOUT = 30.0  # seconds without an answer
_RETRIED = frozenset({408, 429, 500, 502, 503, 504})
# Images that a process holds to shuffle those it reads in the order of their files.
_SHUFFLE_BUFFER = 1000


def is_url(name: str) -> bool:
    """Whether a data set is named by a URL."""
    return name.startswith(("http://", "https://"))


def storage_limit() -> int:
    """Return how many bytes a remote data set may take on disk to be kept: 16 GiB, or ``EFFNETS_SHARDS_GIB``.

    Raises:
        ArgumentError: if the variable is not a positive number.
    """
    value = os.environ.get(_LIMIT, "16")
    try:
        gibibytes = float(value)
    except ValueError:
        gibibytes = 0.0
    if not 0 < gibibytes < float("inf"):
        raise ArgumentError(f"{_LIMIT} is {value!r}; give the disk space for remote data sets in GiB, such as 16")
    return int(gibibytes * 2**30)


@dataclass(slots=True)
class FileStore:
    """Files of servers, by their URLs, in a folder of this machine."""

    folder: Path = field(default_factory=lambda: home_dir() / "shards")
    _streamed: dict[str, Path] = field(default_factory=dict, repr=False)

    def path(self, url: str) -> Path:
        """Return the local path of a file; unless it is being streamed, it is fetched and kept.

        Raises:
            DataError: if the file cannot be fetched or written.
        """
        path = self._streamed.get(url) or self.kept(url)
        if path.exists():
            return path
        locks = self.folder / ".locks"
        try:
            locks.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _not_written(locks, error) from error
        with FileLock(locks / path.name):
            if not path.exists():  # another thread or process may have fetched it meanwhile
                fetch(url, path)
        return path

    def kept(self, url: str) -> Path:
        """Return where a file is kept."""
        return self.folder / f"{hashlib.sha256(url.encode()).hexdigest()[:16]}-{_name(url) or 'shard'}"

    @contextmanager
    def streaming(self, url: str, folder: Path) -> Iterator[Path]:
        """Fetch a file into `folder` unless it is kept, and remove it from there at the end."""
        path = self.kept(url)
        if path.exists():
            yield path
            return
        path = folder / f"{os.getpid()}-{path.name}"
        fetch(url, path)
        self._streamed[url] = path
        try:
            yield path
        finally:
            del self._streamed[url]
            path.unlink(missing_ok=True)


class RemoteFiles(ImageDataset):
    """Images in files on a server, for a class of images in files to inherit from first; its `files` are URLs."""

    kind = "images on a server"

    files: tuple[Path | str, ...]
    store: FileStore

    @contextmanager
    def holding(self, shard: int, folder: Path) -> Iterator[None]:
        with self.store.streaming(str(self.files[shard]), folder):
            yield

    def _path(self, file: int) -> Path:
        return self.store.path(str(self.files[file]))


class RemoteShards(RemoteFiles, TarDataset):
    """Images in WebDataset shards on a server.

    Args:
        arguments: of `TarDataset`.
        sizes: [shards]; bytes of each when its samples were listed.
        store: of the shards.
        streamed: whether they are too large to be kept.
    """

    def __init__(self, *arguments: Any, sizes: Sequence[int], store: FileStore, streamed: bool) -> None:
        super().__init__(*arguments)
        self.shards = self._archive.astype(np.int64) if streamed else None
        self._shard_sizes, self.store = tuple(sizes), store

    def _path(self, file: int) -> Path:
        path, url = super()._path(file), str(self.files[file])
        if path.stat().st_size != self._shard_sizes[file]:
            raise DataError(
                f"{url}: has changed since its samples were listed ({self._shard_sizes[file]:,} bytes then); "
                f"remove {_listing(self.store, url)} and start again"
            )
        return path


class RemoteParquet(RemoteFiles, ParquetDataset):
    """Images in parquet files on a server; arguments are as of `ParquetDataset` and `RemoteShards`."""

    def __init__(self, *arguments: Any, store: FileStore, streamed: bool) -> None:
        super().__init__(*arguments)
        self.shards = np.repeat(self.groups[:, 0], self.groups[:, 2]) if streamed else None
        self.store = store


def stream_folder() -> TemporaryDirectory[str]:
    """Return a new temporary folder beside the files that are kept."""
    folder = FileStore().folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return TemporaryDirectory(dir=folder)
    except OSError as error:
        raise _not_written(folder, error) from error


def stream_images(dataset: ImageDataset, folder: Path, *, seed: int, rank: int, world_size: int) -> IterableDataset:
    """Return an endless stream of one process's images, as {"index": int, "data": bytes}, for `set_epoch`.

    Files are read in an order drawn by seed and epoch, and a buffer shuffles their images. Processes and the workers of
    a torch DataLoader share the files; one that has read all of its files begins again.

    Args:
        dataset: with `shards`.
        folder: for files while they are read.
        seed: of the order.
        rank: this process's number.
        world_size: how many processes there are.
    """
    from datasets import IterableDataset
    from datasets.distributed import split_dataset_by_node

    files = {"files": np.unique(_shards(dataset)).tolist(), "dataset": dataset, "folder": folder}
    stream = IterableDataset.from_generator(_read_files, gen_kwargs=files)
    return split_dataset_by_node(stream.shuffle(seed, buffer_size=_SHUFFLE_BUFFER), rank, world_size).repeat(None)


def _read_files(files: list[int], dataset: ImageDataset, folder: Path) -> Iterator[dict[str, Any]]:
    for file in files:
        with dataset.holding(file, folder):
            for index in np.flatnonzero(_shards(dataset) == file).tolist():
                try:
                    data = dataset.read(index)
                except ImageError:  # an empty image is reported as corrupt
                    data = b""
                yield {"index": index, "data": data}


def _shards(dataset: ImageDataset) -> NDArray[np.int64]:
    assert dataset.shards is not None
    return dataset.shards


def open_remote_shards(
    urls: Sequence[str],
    *,
    label_key: str | None = None,
    strict: bool = False,
    progress: Callable[[str, float], object],
) -> RawSplits:
    """Open WebDataset shards by their URLs, like `effnets.data.tar.open_shards`.

    Each shard is fetched once to list its samples. All are kept if they fit into `storage_limit`.

    Args:
        urls: of the shards.
        label_key, strict: see `open_shards`.
        progress: called before each shard with a description and the share done, 0 to 1.

    Raises:
        DataError: if a shard cannot be fetched, is damaged or holds no samples.
    """
    store, limit = FileStore(), storage_limit()
    sizes: list[int] = []
    samples: list[list[tuple[Member, Label]]] = []
    for number, url in enumerate(urls):
        progress(f"reading shard {number + 1} of {len(urls)}", number / len(urls))
        size, of_shard = _samples(url, store, label_key, keep=sum(sizes) <= limit)
        sizes.append(size)
        samples.append(of_shard)
    names = [_name(url) for url in urls]
    members, labels = split_samples(names, samples)
    class_names, indices, notes = index_labels(labels, urls[0], strict=strict, place=sample_place(names, members))
    streamed = sum(sizes) > limit
    sources: dict[str, ImageDataset] = {
        split: labeled(
            RemoteShards(urls, members[split], indices[split], class_names, sizes=sizes, store=store, streamed=streamed)
        )
        for split in indices
    }
    return RawSplits(datasets=sources, notes=notes)


def _samples(
    url: str, store: FileStore, label_key: str | None, *, keep: bool
) -> tuple[int, list[tuple[Member, Label]]]:
    """Return a shard's size in bytes, and its images and labels.

    Of a shard that is not kept, they are written to a file, so that it need not be fetched for them again.
    """
    listing = _listing(store, url)
    try:
        listed = json.loads(listing.read_text(encoding="utf-8"))
        if listed["label_key"] == label_key:
            return listed["size"], [(Member(*place), label) for *place, label in listed["samples"]]
    except (OSError, ValueError, KeyError, TypeError):
        pass  # not listed yet
    if keep:
        return _list_samples(url, store.path(url), label_key)
    with stream_folder() as folder, store.streaming(url, Path(folder)) as path:
        size, samples = _list_samples(url, path, label_key)
    rows = [(image.name, image.offset, image.size, label) for image, label in samples]
    write_whole(listing, json.dumps({"size": size, "label_key": label_key, "samples": rows}).encode())
    return size, samples


def _list_samples(url: str, path: Path, label_key: str | None) -> tuple[int, list[tuple[Member, Label]]]:
    try:
        samples = samples_of(index_archive(path), label_key)
    except DataError as error:
        path.unlink(missing_ok=True)  # a damaged file is fetched again next time
        raise DataError(str(error).replace(str(path), url)) from error
    if not samples:
        raise DataError(f"{url}: holds no sample; it needs images with a .cls or .json file of the same name")
    return path.stat().st_size, samples


def _listing(store: FileStore, url: str) -> Path:
    return store.kept(f"{url}.json")


def _name(url: str) -> str:
    return PurePosixPath(urlsplit(url).path).name


def fetch(url: str, path: Path) -> None:
    """Download a file. The user's token for the Hub is sent to the Hub only, by its own client.

    Raises:
        DataError: if the server refuses or cannot be reached, or the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=path.parent) as folder:
            fetched = _fetch_from_hub(url, folder) or _fetch_from_server(url, folder)
            fetched.replace(path)
    except OSError as error:
        raise _not_written(path.parent, error) from error


def _not_written(folder: Path, error: OSError) -> DataError:
    return DataError(
        f"{folder}: cannot be written ({error.strerror or error}); free space there, lower {_LIMIT}, or name another "
        "folder with EFFNETS_HOME"
    )


def _fetch_from_server(url: str, folder: str) -> Path:
    """Download a file to `folder`; five tries in all."""
    from pooch import HTTPDownloader
    from requests import HTTPError, RequestException

    path, download = Path(folder, "file"), HTTPDownloader(chunk_size=1 << 20, timeout=_TIMEOUT)
    reason = ""
    for attempt in range(_TRIES):
        if attempt:
            time.sleep(_PAUSE * 2 ** (attempt - 1))
        try:
            download(url, str(path), None)
        except HTTPError as error:
            status = 0 if error.response is None else error.response.status_code
            reason = f"HTTP {status}, {'' if error.response is None else error.response.reason}"
            if status not in _RETRIED:
                raise _not_fetched(url, reason) from error
        except RequestException as error:
            reason = str(error)
        else:
            return path
    raise _not_fetched(url, f"{reason}, {_TRIES} times")


def _fetch_from_hub(url: str, folder: str) -> Path | None:
    """Download a file of the Hub, or of the mirror that ``HF_ENDPOINT`` names, to `folder`; None for other servers."""
    from huggingface_hub import constants, hf_hub_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError
    from huggingface_hub.utils import tqdm  # type: ignore[attr-defined]

    class NoBar(tqdm):  # hundreds of bars would hide the progress of training
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **{**kwargs, "disable": True})  # type: ignore[no-untyped-call]

    address = re.escape(constants.ENDPOINT.rstrip("/"))
    found = re.match(rf"{address}/((datasets|spaces)/)?([^/]+/[^/]+)/resolve/([^/]+)/([^?#]+)", url, re.IGNORECASE)
    if found is None:
        return None
    try:
        return Path(
            hf_hub_download(
                found[3],
                unquote(found[5]),
                repo_type=found[2] and found[2].removesuffix("s"),
                revision=unquote(found[4]),
                local_dir=folder,
                tqdm_class=NoBar,
            )
        )
    except (GatedRepoError, RepositoryNotFoundError) as error:
        raise DataError(
            f"{url}: access is refused ({first_line(error)}); it is private, gated or gone: set HF_TOKEN, or run "
            "'hf auth login'"
        ) from error
    except Exception as error:  # of the client and the libraries that it is built on
        if type(error) is OSError or isinstance(error, PermissionError):
            raise  # of the disk
        raise _not_fetched(url, first_line(error)) from error


def _not_fetched(url: str, reason: str) -> DataError:
    return DataError(f"{url}: cannot be fetched ({reason}); check the address and the network, and start again")
