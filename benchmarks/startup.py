"""How long a run takes to start, the first time and the second, and what it holds.

    python benchmarks/startup.py [--records=1280000] [--files=500000] [--runs=2]

Each part runs in processes of its own, which read a cache that is empty at first: the
index of TFRecord shards, records of ArrayRecord shards of several sizes, the listing of
a folder of empty files, and `vit_jax train --config=quickstart`, cut to eight steps.
CPU seconds are of user and system time; files have just been written, so that no time
of a disk is in them. Prints a table, and one line of JSON; ends with 1 where a limit is
missed.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

REPOSITORY = Path(__file__).resolve().parent.parent
SHARDS, FOLDERS, LONG_AGO = 1024, 1000, 10**18
STEPS = 8

INDEX = """
import json, os, sys, time
from pathlib import Path
import numpy as np
from vit_jax.data import records
paths = sorted(Path(sys.argv[1]).glob("*-of-*"))
lengths = [int(sys.argv[2])] * len(paths)
began, cpu = time.perf_counter(), time.process_time()
files = records.RecordFiles("tfrecord", paths, lengths)
files.check()
found = {"wall": time.perf_counter() - began, "cpu": time.process_time() - cpu}
known = files._open_shard._index._known.values()
found["bytes"] = sum(shard.starts.nbytes for shard in known) / len(files)
records.open_file_budget = lambda wanted: 16
few = records.RecordFiles("tfrecord", paths, lengths)
few.check()
order = np.random.default_rng(0).integers(0, len(few), 20_000).tolist()
cpu = time.process_time()
for index in order:
    few.read(index)
found["touch"] = (time.process_time() - cpu) / len(order)
print(json.dumps(found))
"""

LISTING = """
import json, re, sys, time
from pathlib import Path
from vit_jax.data import folder
def held(name):
    status = open("/proc/self/status").read()
    return int(re.search(name + r":\\s*(\\d+)", status)[1]) * 1024
before, began, cpu = held("VmRSS"), time.perf_counter(), time.process_time()
found = folder.Folder(Path(sys.argv[1]))
wall, cpu = time.perf_counter() - began, time.process_time() - cpu
count = sum(found.counts().values())
peak = (held("VmHWM") - before) / count
arrays = [names for _, names in found._layout.splits.values()]
bytes = sum(a.blob.nbytes + a._ends.nbytes + a.order.nbytes for a in arrays) / count
print(json.dumps({"wall": wall, "cpu": cpu, "peak": peak, "held": bytes}))
"""

PROGRAMS = """
import json, time
import jax
from configs import quickstart
from vit_jax import experiment
from vit_jax.runs import compiling
def timed(what):
    jax.clear_caches()
    config = quickstart.get_config()
    exp = experiment.assemble(config, experiment.make_mesh(config))
    began = time.perf_counter()
    what(exp)
    return time.perf_counter() - began
print(json.dumps({
    "step": timed(lambda exp: compiling.compiled(exp, anew=False)),
    "state": timed(lambda exp: exp.init.lower().compile()),
    "both": timed(lambda exp: compiling.compiled(exp, anew=True)),
}))
"""

ARRAY_RECORD = """
import json, sys, time
from pathlib import Path
import numpy as np
from vit_jax.data import records
count = int(sys.argv[2])
files = records.RecordFiles("array_record", [Path(sys.argv[1])], [count])
files.read(0)
order = np.random.default_rng(0).integers(0, count, 5_000).tolist()
cpu = time.process_time()
for index in order:
    files.read(index)
print(json.dumps((time.process_time() - cpu) / len(order)))
"""


class Row(NamedTuple):
    """A line of the table.

    Attributes:
        what: Was measured.
        first: At the first start; None: it has no other value there.
        second: At the second.
        limit: Of the second; None: none.
        both: Whether it is one of the first as well.
    """

    what: str
    first: float | None
    second: float
    limit: float | None
    both: bool = False

    def misses(self) -> bool:
        """Returns whether it is above its limit."""
        if self.limit is None:
            return False
        return max(self.second, self.first if self.both else 0) > self.limit


def in_a_process(script: str, cache: Path, *arguments: object) -> dict:
    """Returns what a script prints as JSON."""
    environment = {**os.environ, "VIT_JAX_CACHE": str(cache), "JAX_PLATFORMS": "cpu"}
    environment["PYTHONPATH"] = str(REPOSITORY)
    words = [sys.executable, "-c", script, *map(str, arguments)]
    done = subprocess.run(words, check=True, env=environment, stdout=subprocess.PIPE)
    return json.loads(done.stdout)


def tfrecord(folder: Path, records: int) -> list[dict]:
    """Returns the figures of two starts on shards of small records."""
    from vit_jax.data import tfrecord as format

    payload = b"x" * 40
    one = format.header(40) + payload
    one += format.masked_crc32c(payload).to_bytes(4, "little")
    each = records // SHARDS
    for shard in range(SHARDS):
        path = folder / f"x-train.tfrecord-{shard:05d}-of-{SHARDS:05d}"
        path.write_bytes(one * each)
        os.utime(path, ns=(LONG_AGO, LONG_AGO))
    cache = folder / "cache"
    return [in_a_process(INDEX, cache, folder, each) for _ in range(2)]


def array_record(folder: Path) -> dict[int, float]:
    """Returns CPU seconds of a read in shards of several numbers of records."""
    from array_record.python import array_record_module

    found = {}
    for count in (1_000, 20_000, 500_000):
        path = str(folder / f"{count}.array_record")
        writer = array_record_module.ArrayRecordWriter(path, "group_size:1")
        for index in range(count):
            writer.write(index.to_bytes(300, "little"))
        writer.close()
        found[count] = in_a_process(ARRAY_RECORD, folder, path, count)
    return found


def listing(folder: Path, files: int) -> list[dict]:
    """Returns the figures of two starts on a folder of empty files."""
    for number in range(FOLDERS):
        place = folder / "data" / "train" / f"n{number:08d}"
        place.mkdir(parents=True)
        for index in range(files // FOLDERS):
            (place / f"n{number:08d}_{index:06d}.JPEG").touch()
    time.sleep(2.5)  # what was changed just now is not kept
    return [in_a_process(LISTING, folder, folder / "data") for _ in range(2)]


def training(folder: Path, runs: int) -> Iterator[dict]:
    """Yields the seconds and losses of runs; the first one finds no programs."""
    environment = {**os.environ, "VIT_JAX_CACHE": str(folder), "JAX_PLATFORMS": "cpu"}
    environment["PYTHONPATH"] = str(REPOSITORY)
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    for number in range(runs):
        workdir = folder / f"run{number}"
        words = [sys.executable, "-m", "vit_jax.main", "--config=quickstart"]
        words += [f"--workdir={workdir}", f"--config.total={STEPS}"]
        words += ["--config.log_every=1", "--config.optimizer.warmup=2"]
        before, began = os.times(), time.perf_counter()
        subprocess.run(
            words, check=True, env=environment, cwd=folder, capture_output=True
        )
        wall, after = time.perf_counter() - began, os.times()
        lines = (workdir / "metrics.jsonl").read_text().splitlines()
        steps = [one for one in map(json.loads, lines) if "loss" in one]
        yield {
            "wall": wall,
            "cpu": sum(after[2:4]) - sum(before[2:4]),
            "losses": [one["loss"] for one in steps],
        }


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--records", type=int, default=1_280_000)
    parser.add_argument("--files", type=int, default=500_000)
    parser.add_argument("--runs", type=int, default=2)
    given = parser.parse_args()
    sys.path.insert(0, str(REPOSITORY))
    with tempfile.TemporaryDirectory() as name:
        places = [Path(name) / part for part in ("tf", "array", "files", "runs")]
        for place in places:
            place.mkdir()
        index = tfrecord(places[0], given.records)
        reads = array_record(places[1])
        files = listing(places[2], given.files)
        runs = list(training(places[3], given.runs))
        compiled = in_a_process(PROGRAMS, places[3])
        at_once = compiled["both"] / (compiled["step"] + compiled["state"])
    small, large = min(reads), max(reads)
    rows = [
        Row("index of TFRecord, CPU s", index[0]["cpu"], index[1]["cpu"], 0.5),
        Row("- a touch with 16 open, ms", None, 1e3 * index[1]["touch"], 0.1),
        Row("- bytes a record in memory", None, index[1]["bytes"], 8.5),
        Row("listing a folder, CPU s", files[0]["cpu"], files[1]["cpu"], None),
        Row("- bytes a file at most", files[0]["peak"], files[1]["peak"], 120, True),
        Row("- bytes a file then", files[0]["held"], files[1]["held"], 120, True),
        Row(
            f"a read of ArrayRecord, {large:,} records over {small:,}",
            *(None, reads[large] / reads[small], 2),
        ),
        Row("quickstart, CPU s", runs[0]["cpu"], runs[-1]["cpu"], 0.7 * runs[0]["cpu"]),
        Row("quickstart, s", runs[0]["wall"], runs[-1]["wall"], None),
        Row("programs at once over one by one, s", None, at_once, None),
    ]
    print("| | first start | second start | limit |\n|---|---|---|---|")
    for row in rows:
        cells = (row.first, row.second, row.limit)
        shown = ("" if one is None else f"{one:.3g}" for one in cells)
        print(f"| {row.what} | {' | '.join(shown)} |")
    missed = [row.what for row in rows if row.misses()]
    if any(run["losses"] != runs[0]["losses"] for run in runs):
        missed.append("the losses of all runs are the same")
    print(json.dumps({"index": index, "reads": reads, "files": files, "runs": runs}))
    print(f"missed: {missed}" if missed else "all limits are kept", file=sys.stderr)
    return bool(missed)


if __name__ == "__main__":
    sys.exit(main())
