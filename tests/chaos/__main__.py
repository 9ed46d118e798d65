"""python tests/chaos [HARNESS...] [--short] [--write] [--folder=DIR].

Does faults to real runs on this machine and prints a table for each harness; --write
puts it into benchmarks/chaos.md, in the place of the one before. Ends with 1 where a
row is not good; the logs of its runs are printed then.
"""

import argparse
import importlib
import os
import random
import re
import shutil
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from chaos import runs

HARNESSES = ("stops", "storage", "hangs", "kills", "jobset")
REPORT = runs.REPOSITORY / "benchmarks" / "chaos.md"


def report(old: str, title: str, text: str) -> str:
    """Returns a report with the section of a title replaced, or added."""
    section = re.compile(rf"^## {re.escape(title)}\n.*?(?=^## |\Z)", re.S | re.M)
    if section.search(old):
        return section.sub(lambda _: text, old)
    return f"{old.rstrip()}\n\n{text}"


def run(name: str, folder: Path, *, short: bool = False) -> tuple[str, str, int]:
    """Runs a harness; returns its title, its table and how many rows are not good."""
    harness = importlib.import_module(f"chaos.{name}")
    shutil.rmtree(folder, ignore_errors=True)
    began = time.monotonic()
    rows: list[dict[str, Any]] = harness.rows(folder, short=short)
    bad = [row for row in rows if row["good"] != "yes"]
    for row in bad:
        print(row[runs.SAID], flush=True)
    load = os.getloadavg()[2]
    minutes = (time.monotonic() - began) / 60
    how = f"`python tests/chaos {name}{' --short' if short else ''}`"
    ends = f"{how}: {minutes:.0f} min, {os.cpu_count()} cores, load {load:.0f}.\n"
    return harness.TITLE, f"{runs.table(harness.TITLE, rows)}\n{ends}\n", len(bad)


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("harness", nargs="*", help=f"of {', '.join(HARNESSES)}")
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=Path("workdirs/chaos"))
    options = parser.parse_args()
    random.seed(options.seed)
    failed = 0
    for name in options.harness or HARNESSES:
        folder = options.folder.absolute() / name
        title, text, bad = run(name, folder, short=options.short)
        failed += bad
        print(text, flush=True)
        if options.write:
            REPORT.write_text(report(REPORT.read_text(), title, text).rstrip() + "\n")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
