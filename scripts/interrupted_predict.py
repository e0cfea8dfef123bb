"""Kill `effnets predict` on many small files in its midst, resume it, and count rows and memory.

    uv run scripts/interrupted_predict.py ../shared [--files 100000] [--broken 0.01]

Every file holds one of CIFAR-10's test images, and a share of them is empty, cut short, or text. The demonstration
network, exported to ONNX, names them; memory is the resident set of the process, sampled every half second from its
tenth second on. Linux only.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq

import effnets

BROKEN = (b"", b"this is no image")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shared", type=Path)
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--broken", type=float, default=0.01)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        folder, model = Path(work) / "photos", Path(work) / "model.onnx"
        effnets.export(effnets.create_model("mixnet_xs_32px.cifar10", pretrained=True), model)
        broken = write_files(folder, arguments.shared, arguments.files, round(1 / arguments.broken))
        output = Path(work) / "labels.parquet"
        command = [sys.executable, "-m", "effnets", "predict", str(folder), "--weights", str(model), "--resume"]
        command += ["--output", str(output)]
        first, _ = run(command, seconds=None if arguments.files < 5000 else arguments.files / 3000)
        print(f"killed: status {first}, {output.name} {'exists' if output.exists() else 'does not exist'}")
        status, memory = run(command)
        rows = pq.read_table(output, columns=["path", "error"]).to_pylist()
        counts = Counter(row["path"] for row in rows)
        errors = {Path(row["path"]).name for row in rows if row["error"]}
        print(f"resumed: status {status}; {len(rows):,} rows, {len(counts):,} files, each {set(counts.values())} times")
        print(f"errors: {len(errors):,} rows, of {len(broken):,} broken files, the same: {errors == broken}")
        tenths = [f"{memory[len(memory) * part // 10]:.0f}" for part in range(10)]
        print(f"memory: {min(memory):.0f} to {max(memory):.0f} MB; at every tenth of the time {', '.join(tenths)}")
        sys.exit(not (len(rows) == len(counts) == arguments.files and errors == broken and status == 1))


def write_files(folder: Path, shared: Path, count: int, every: int) -> set[str]:
    """Write the files; return the names of those that are broken."""
    images = [row["bytes"] for row in pq.read_table(shared / "data/cifar10/test.parquet")["img"].to_pylist()]
    broken = set()
    for number in range(count):
        place = folder / f"{number // 1000:03}"
        place.mkdir(parents=True, exist_ok=True)
        content, name = images[number % len(images)], f"{number:06}.png"
        if number % every == every - 1:
            broken.add(name)
            content = (*BROKEN, content[: len(content) // 2])[number // every % 3]
        (place / name).write_bytes(content)
    return broken


def run(command: list[str], seconds: float | None = None) -> tuple[int, list[float]]:
    """Run a command, to its end or for `seconds`, then killed; return its status and its memory in MB."""
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    begin, samples = time.monotonic(), []
    while process.poll() is None:
        time.sleep(0.5)
        if seconds is not None and time.monotonic() - begin > seconds:
            process.kill()
        elif time.monotonic() - begin > 10:
            status = Path(f"/proc/{process.pid}/status")
            if "VmRSS:" in (text := status.read_text() if status.exists() else ""):
                samples.append(int(text.partition("VmRSS:")[2].split()[0]) / 1000)
    return process.wait(), samples


if __name__ == "__main__":
    main()
