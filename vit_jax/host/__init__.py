"""This machine: cores, memory or the container's, and our cache on it; no JAX."""

import importlib
import os
import sys
from pathlib import Path
from types import ModuleType

_MEMINFO = Path("/proc/meminfo")
_CGROUPS = Path("/proc/self/cgroup")
_MOUNT = Path("/sys/fs/cgroup")
# Of a control group, version 2 and 1: its limit, what it uses, and the part of that
# which the kernel gives back when it is asked for.
_FILES = {
    "v2": ("memory.max", "memory.current", "inactive_file"),
    "v1": ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}


resource: ModuleType | None
try:
    resource = importlib.import_module("resource")
except ImportError:  # Windows
    resource = None


def peak_memory() -> int:
    """Returns the most bytes this process has held so far; 0 where nothing says it."""
    if resource is None:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def cores() -> int:
    """Returns how many processors this process may run on."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        return os.cpu_count() or 1


def cache_folder() -> Path:
    """Returns our cache: `$VIT_JAX_CACHE`, or in the user's cache."""
    if own := os.environ.get("VIT_JAX_CACHE"):
        return Path(own).expanduser()
    if everyone := os.environ.get("XDG_CACHE_HOME"):
        return Path(everyone).expanduser() / "vit_jax"
    return Path("~/.cache/vit_jax").expanduser()


def total_memory() -> int:
    """Returns the bytes that there are: of the machine, or the group's limit."""
    return min([_physical_memory(), *(limit for limit, _ in _groups())])


def _physical_memory() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError):  # Windows
        import psutil  # type: ignore[import-untyped]

        return psutil.virtual_memory().total


def available_memory() -> int:
    """Returns the bytes that can still be had, without swapping."""
    machine = _machine_available()
    return max(0, min([machine, *(limit - used for limit, used in _groups())]))


def _machine_available() -> int:
    try:
        lines = _MEMINFO.read_text().splitlines()
    except OSError:  # not Linux: nothing says what others use
        return _physical_memory()
    values = dict(line.split(":", 1) for line in lines if ":" in line)
    return int(values["MemAvailable"].split()[0]) * 1024


def _groups() -> list[tuple[int, int]]:
    """(limit, bytes in use that stay) of each control group this process is in."""
    found = []
    for folder, version in _folders():
        limit, used, given_back = _FILES[version]
        try:
            bound = (folder / limit).read_text().strip()
            if bound == "max":
                continue
            stats = dict(
                line.split()
                for line in (folder / "memory.stat").read_text().split("\n")
                if len(line.split()) == 2
            )
            kept = int((folder / used).read_text()) - int(stats[given_back])
            found.append((int(bound), kept))
        except (OSError, ValueError, KeyError):
            continue  # no controller of memory there
    return found


def _folders() -> list[tuple[Path, str]]:
    """Where the kernel describes the groups, from the process's own to the root."""
    try:
        lines = _CGROUPS.read_text().splitlines()
    except OSError:
        return []
    result = []
    for line in lines:
        _, controllers, place = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        root, version = (_MOUNT / "memory", "v1") if controllers else (_MOUNT, "v2")
        inner = Path(place.lstrip("/"))
        result += [(root / part, version) for part in (inner, *inner.parents)]
    return result
