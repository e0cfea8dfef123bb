"""Reads files made to do harm in a process of its own, and measures what they cost it."""

from __future__ import annotations

import json
import subprocess
import sys

# Importing torch takes half of the memory. The seconds are the processor's: others may be at work beside.
SECONDS = 5.0
MEGABYTES = 1024

PROGRAM = """
import json, pathlib, resource, sys, time, warnings
import effnets
from effnets.weights.files import read_checkpoint
warnings.simplefilter("ignore")
answers = {}
for path in sorted(pathlib.Path(sys.argv[1]).iterdir()):
    begin = time.process_time()
    try:
        effnets.create_model(path) if path.is_dir() or path.suffix == ".yaml" else read_checkpoint(path)
        answer = "accepted"
    except effnets.EffnetsError as error:
        answer = f"refused {error}"
    except Exception as error:
        answer = f"escaped {type(error).__name__}: {error}"
    answers[path.name] = answer, time.process_time() - begin
status = pathlib.Path("/proc/self/status")
if status.exists():  # not getrusage: over fork and exec a process keeps the peak of its parent there
    megabytes = next(int(line.split()[1]) for line in status.read_text().splitlines() if "VmHWM" in line) / 1024
else:
    megabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20)

print(json.dumps([answers, megabytes]))
"""


def judge(folder):
    """What becomes of each file, once none has taken too long or too much."""
    done = subprocess.run([sys.executable, "-c", PROGRAM, str(folder)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    answers, megabytes = json.loads(done.stdout)
    assert megabytes < MEGABYTES, f"{megabytes:.0f} MB"
    slowest = max(answers, key=lambda name: answers[name][1])
    assert answers[slowest][1] < SECONDS, f"{slowest}: {answers[slowest][1]:.1f} s"
    return {name: answer for name, (answer, _) in answers.items()}
