"""Compare exact search with the indexes of usearch, FAISS and LanceDB, as far as these are installed.

It prints seconds to build, milliseconds for a query alone and for one of 200 at a time (the least of several), and
recall of the ten nearest.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from effnets.embeddings.neighbors import nearest

K = 10
QUERIES = 200
Search = Callable[[NDArray[np.float32]], NDArray[Any]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("vectors", type=Path, help="a .npy of effnets embed, normalized")
    parser.add_argument("--count", type=int, default=100_000, help="make so many of them, between pairs of photos")
    arguments = parser.parse_args()
    every = np.load(arguments.vectors)
    generator = np.random.default_rng(0)
    generator.shuffle(every)
    queries, photos = every[:QUERIES], every[QUERIES:]
    ends = photos[generator.integers(0, len(photos), (2, arguments.count))]
    shares = generator.random((arguments.count, 1), np.float32)
    vectors = shares * ends[0] + (1 - shares) * ends[1]
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    del ends
    expected = nearest(vectors, queries, K)[1]
    print(f"{len(vectors):,} vectors of {vectors.shape[1]}")
    print("| search | built in s | ms for one query | ms for one of 200 | recall of 10 |\n|---|---:|---:|---:|---:|")
    report("exact, NumPy", lambda: lambda wanted: nearest(vectors, wanted, K)[1], queries, expected)
    for name, package, build in (
        ("usearch, HNSW, float16", "usearch", lambda: usearch(vectors, "f16")),
        ("FAISS, exact", "faiss", lambda: faiss_flat(vectors)),
        ("FAISS, HNSW", "faiss", lambda: faiss_hnsw(vectors)),
        ("LanceDB, exact", "lancedb", lambda: lance(vectors, indexed=False)),
        ("LanceDB, IVF-PQ", "lancedb", lambda: lance(vectors, indexed=True)),
    ):
        if find_spec(package):
            report(name, build, queries, expected)


def report(name: str, build: Callable[[], Search], queries: NDArray[np.float32], expected: NDArray[np.int64]) -> None:
    start = time.perf_counter()
    search = build()
    built = time.perf_counter() - start
    single = min(timed(search, query[None])[0] for query in queries[:20])
    several, found = min((timed(search, queries) for _ in range(3)), key=lambda one: one[0])
    recall = np.mean([len(set(a) & set(b)) / K for a, b in zip(found, expected, strict=True)])
    print(
        f"| {name} | {built:.1f} | {1e3 * single:.1f} | {1e3 * several / len(queries):.2f} | {recall:.3f} |", flush=True
    )


def timed(search: Search, queries: NDArray[np.float32]) -> tuple[float, NDArray[Any]]:
    start = time.perf_counter()
    found = search(queries)
    return time.perf_counter() - start, found


def usearch(vectors: NDArray[np.float32], dtype: str) -> Search:
    from usearch.index import Index

    index = Index(ndim=vectors.shape[1], metric="cos", dtype=dtype)
    index.add(np.arange(len(vectors)), vectors)
    return lambda wanted: np.asarray(index.search(wanted, K).keys).reshape(len(wanted), K)


def faiss_flat(vectors: NDArray[np.float32]) -> Search:
    import faiss

    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors)
    return lambda wanted: index.search(wanted, K)[1]


def faiss_hnsw(vectors: NDArray[np.float32]) -> Search:
    import faiss

    index = faiss.IndexHNSWFlat(vectors.shape[1], 16, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efSearch = 64
    index.add(vectors)
    return lambda wanted: index.search(wanted, K)[1]


def lance(vectors: NDArray[np.float32], *, indexed: bool) -> Search:
    import lancedb
    import pyarrow as pa

    flat = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1])
    table = lancedb.connect(tempfile.mkdtemp()).create_table(
        "vectors", pa.table({"row": pa.array(np.arange(len(vectors))), "vector": flat})
    )
    if indexed:
        table.create_index(metric="cosine", vector_column_name="vector")

    def search(wanted: NDArray[np.float32]) -> NDArray[Any]:
        rows = []
        for query in wanted:
            asked = table.search(query).distance_type("cosine").select(["row"]).limit(K)
            found = (asked.refine_factor(10) if indexed else asked).to_arrow()["row"].to_pylist()
            rows.append(found + [-1] * (K - len(found)))
        return np.array(rows)

    return search


if __name__ == "__main__":
    main()
