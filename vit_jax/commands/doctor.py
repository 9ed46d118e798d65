"""`vit_jax doctor [--json]`: what is here, and what would fail.

Looks at the machine, Python and the packages, devices, data, caches and extras, a line
each: "ok", "warning" or "fails"; the exit code is 2 if any fails. It asks no network,
writes nothing that stays, and waits for devices for --timeout seconds at most.
"""

import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from absl import flags

from vit_jax import cli, errors, host
from vit_jax.cli import tables
from vit_jax.data import prepared
from vit_jax.host import programs
from vit_jax.weights.remote import cache, hubcache

GIB = 2**30
MOST_SECONDS = 86_400
OK, WARNING, FAILS = "ok", "warning", "fails"
# Where drivers of accelerators show that there is one.
ACCELERATORS = {
    "cuda": ("/dev/nvidia0", "/proc/driver/nvidia/version"),
    "tpu": ("/dev/accel0", "/dev/vfio/0"),
}
# Extra: the module that it brings, and what wants it.
EXTRAS = {
    "hub": ("huggingface_hub", "hf:// names that the cache does not have"),
    "prepare": ("tensorflow", "preparing datasets of TFDS that need it"),
    "data": ("datasets", "data of hf:NAME, tables and shards at URLs"),
    "gcs": ("gcsfs", "workdirs and checkpoints in gs://"),
    "inspect": ("matplotlib", "vit_jax inspect"),
    "export": ("flatbuffers", "vit_jax export"),
    "tflite": ("ai_edge_litert", "vit_jax export --format=tflite"),
    "onnx": ("onnx", "vit_jax export --format=onnx"),
    "plan": ("libtpu", "vit_jax plan --topology=..."),
    "wandb": ("wandb", "--config.log.writers=wandb"),
    "mlflow": ("mlflow", "--config.log.writers=mlflow"),
}
_DEVICES = """
import json, jax
found = jax.devices()
memory = (found[0].memory_stats() or {}).get("bytes_limit")
print(json.dumps([jax.default_backend(), found[0].device_kind, len(found), memory]))
"""


class Line(NamedTuple):
    """What was found of one thing.

    Attributes:
        about: The thing.
        status: `OK`, `WARNING` or `FAILS`.
        text: What there is, or what is wrong and what to do.
    """

    about: str
    status: str
    text: str


def machine() -> Iterator[Line]:
    """Processors, memory and disk."""
    name = f"{platform.system()} {platform.machine()}, {host.cores()} cores"
    yield Line("machine", OK, name)
    total, free = host.total_memory(), host.available_memory()
    text = f"{total / GIB:.1f} GiB, {free / GIB:.1f} can be had"
    low = free < 2 * GIB
    yield Line("memory", WARNING if low else OK, text + "; want 2" * low)
    here = Path.cwd()
    room = shutil.disk_usage(here).free
    text = f"{room / GIB:.1f} GiB free in {here}, where workdirs/ goes"
    if not os.access(here, os.W_OK):
        yield Line("disk", FAILS, f"{here} cannot be written to; want --workdir=PATH")
    else:
        yield Line("disk", WARNING if room < 2 * GIB else OK, text)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version)[:3])


def within(version: str, wanted: str) -> bool:
    """Returns whether a version is in a range like ">=0.10.2,<0.12"."""
    checks: dict[str, Callable[[tuple[int, ...], tuple[int, ...]], bool]] = {
        ">=": lambda a, b: a >= b,
        "<=": lambda a, b: a <= b,
        "==": lambda a, b: a == b,
        "<": lambda a, b: a < b,
    }
    parts = re.findall(r"(>=|<=|==|<)\s*([\w.]+)", wanted)
    return all(checks[sign](_numbers(version), _numbers(end)) for sign, end in parts)


def versions(requirements: Iterable[str]) -> Iterator[Line]:
    """Compares what is installed with the ranges that we work with.

    Args:
        requirements: "jax<0.12,>=0.10.2" and the like.
    """
    good = []
    for requirement in requirements:
        match = re.match(r"([\w.-]+)(?:\[.*?\])?\s*(.*)", requirement)
        assert match is not None, requirement
        name, wanted = match[1], match[2]
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            yield Line(name, FAILS, f"not installed; pip install '{requirement}'")
            continue
        if within(version, wanted):
            good.append(f"{name} {version}")
        else:
            text = f"{version} is not {wanted}; pip install '{requirement}'"
            yield Line(name, FAILS, text)
    yield Line("packages", OK, ", ".join(good))


def python() -> Iterator[Line]:
    """Returns the interpreter, vit_jax and what it depends on."""
    status = OK if sys.version_info >= (3, 11) else FAILS
    yield Line("Python", status, f"{platform.python_version()}, {sys.executable}")
    try:
        wanted = importlib.metadata.requires("vit_jax") or []
        version = importlib.metadata.version("vit_jax")
    except importlib.metadata.PackageNotFoundError:
        text = "not installed, so versions are not compared; pip install -e ."
        yield Line("vit_jax", WARNING, text)
        return
    yield Line("vit_jax", OK, f"{version}, {Path(errors.__file__).parent}")
    yield from versions(one for one in wanted if "extra ==" not in one)


def devices(timeout: float, command: list[str] | None = None) -> Iterator[Line]:
    """Returns what jax finds, asked in a process of its own, which may hang.

    Args:
        timeout: Seconds that it gets.
        command: That prints back end, kind, number and memory; None: jax.
    """
    command = command or [sys.executable, "-c", _DEVICES]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout)
    except subprocess.TimeoutExpired:
        text = f"jax found none within {timeout:g} s: is a TPU in use, or not there? "
        yield Line("devices", FAILS, text + "JAX_PLATFORMS=cpu goes without")
        return
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        yield Line("devices", FAILS, f"jax cannot start: {last[:200]}")
        return
    backend, kind, number, memory = json.loads(done.stdout.splitlines()[-1])
    held = f", {memory / GIB:.1f} GiB each" if memory else ""
    yield Line("devices", OK, f"{number} of {backend} ({kind}){held}")
    if backend == "cpu" and not os.environ.get("JAX_PLATFORMS"):
        for name, places in ACCELERATORS.items():
            if any(Path(place).exists() for place in places):
                text = f"is there, but jax uses the CPU; pip install 'vit_jax[{name}]'"
                yield Line(name, WARNING, text)


def data(data_dir: str) -> Iterator[Line]:
    """Returns the data folder and what is prepared in it."""
    try:
        root = prepared.root(data_dir)
    except errors.UserError as error:
        yield Line("data", FAILS, str(error))
        return
    given = data_dir or os.environ.get("TFDS_DATA_DIR")
    if not root.is_dir():
        text = f"{root} is not there; digits and folder:PATH go without"
        yield Line("data", FAILS if given else WARNING, text)
        return
    names = []
    for folder in sorted(path for path in root.iterdir() if path.is_dir()):
        inside = sorted(path for path in folder.iterdir() if path.is_dir())
        for one in (folder, *inside):
            if found := prepared.versions(one):
                names.append(f"{one.relative_to(root).as_posix()}:{found[-1]}")
    text = f"in {root}: {', '.join(names) or 'no dataset is prepared'}"
    yield Line("data", OK if names else WARNING, text)


def _writable(folder: Path) -> bool:
    """Whether a file can be made in a folder, which need not be there yet."""
    there = next(path for path in (folder, *folder.parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=there):
            return True
    except OSError:
        return False


def caches() -> Iterator[Line]:
    """Returns where downloads and compiled programs are kept."""
    places = {"downloads": cache.root(), "Hugging Face": hubcache.root()}
    for name, folder in places.items():
        models = sum(1 for _ in folder.glob("models--*"))
        known = f", {models} models" if name == "Hugging Face" else ""
        if name == "Hugging Face" and (variable := hubcache.offline()):
            known += f", {variable} is set: nothing is asked of the hub"
        if _writable(folder):
            yield Line(name, OK, f"{folder}{known}")
        else:
            yield Line(name, WARNING, f"{folder} cannot be written to{known}")
    own = str(programs.folder())
    compiled = os.environ[programs.VARIABLE] if programs.VARIABLE in os.environ else own
    if not compiled:
        text = f"off, {programs.VARIABLE} is empty; FOLDER keeps compiled programs"
        yield Line("compiled", OK, text)
    elif "://" in compiled or _writable(Path(compiled)):
        yield Line("compiled", OK, compiled)
    else:
        yield Line("compiled", WARNING, f"{compiled} cannot be written to")


def extras() -> Iterator[Line]:
    """Returns optional packages that are not there, and what wants them."""
    for name, (module, purpose) in EXTRAS.items():
        if importlib.util.find_spec(module) is None:
            text = f"no {module}, for {purpose}; pip install 'vit_jax[{name}]'"
            yield Line(f"[{name}]", WARNING, text)
        else:
            yield Line(f"[{name}]", OK, f"{module}, for {purpose}")


def run(*, data_dir: str = "", timeout: float = 60.0) -> list[Line]:
    """Returns what is found of everything.

    Args:
        data_dir: of TFDS; "": $TFDS_DATA_DIR or its default.
        timeout: seconds to wait for devices.
    """
    found = [*machine(), *python(), *devices(timeout), *data(data_dir), *caches()]
    return [*found, *extras()]


def _define_flags() -> None:
    flags.DEFINE_bool("json", False, "One JSON object in place of the lines.")
    flags.DEFINE_string("data_dir", "", "Of TFDS; '': $TFDS_DATA_DIR.")
    flags.DEFINE_float("timeout", 60, "Seconds to wait for devices.", lower_bound=1)


def _main(argv: list[str]) -> int:
    if argv[1:]:
        raise errors.UserError(f"what is {argv[1]!r}? Want flags only; see --help")
    if not flags.FLAGS.timeout <= MOST_SECONDS:
        raise errors.UserError(
            f"--timeout={flags.FLAGS.timeout}; want at most {MOST_SECONDS} seconds"
        )
    lines = run(data_dir=flags.FLAGS.data_dir, timeout=flags.FLAGS.timeout)
    statuses = {line.status for line in lines}
    worst = next(one for one in (FAILS, WARNING, OK) if one in statuses)
    if flags.FLAGS.json:
        found = [line._asdict() for line in lines]
        cli.print_figures({"status": worst, "checks": found})
    else:
        width = max(len(line.about) for line in lines)
        rows = [
            f"{one.status:7}  {one.about.ljust(width)}  {one.text}" for one in lines
        ]
        heads = ("status", "about", "found")
        cells = [(line.status, line.about, line.text) for line in lines]
        tables.print_lines([heads, *cells], "\n".join(rows))
    return errors.EXIT_BAD_INPUT if worst == FAILS else errors.EXIT_DONE


if __name__ == "__main__":
    _define_flags()
    cli.run(_main)
