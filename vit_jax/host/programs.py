"""Compiled programs, kept on disk: whoever starts the same run again reads them.

The cache is JAX's own, and its variables decide: `JAX_COMPILATION_CACHE_DIR` is another
folder, or with no value none. What is read from it is the very program that was
compiled, for the same devices, flags and versions, so no bit depends on it.
"""

import contextlib
import hashlib
import logging
import os
import platform
import re
import stat
from pathlib import Path

from vit_jax import host

VARIABLE = "JAX_COMPILATION_CACHE_DIR"
LIMIT = 10 * 2**30  # bytes; a B/16 step is 1 MB on a CPU, a large one 100 MB on a pod
_CPUINFO = Path("/proc/cpuinfo")


def folder() -> Path:
    """Returns where programs are kept where nothing says another place.

    It is another one for processors with other instructions: homes are shared by
    machines, and a program for one CPU may not run on the other.
    """
    try:
        found = re.search(r"^(flags|Features)\s*:.*$", _CPUINFO.read_text(), re.M)
    except OSError:  # not Linux
        found = None
    can = found[0] if found else platform.processor()
    digest = hashlib.sha256(can.encode()).hexdigest()[:8]
    return host.cache_folder() / "programs" / f"{platform.machine()}-{digest}"


def keep() -> None:
    """Has this process keep what it compiles, and read what others did; says where.

    Of several processes at once each reads what is there whole, and compiles the rest.
    """
    import jax  # where something is compiled

    if not jax.config.values["jax_enable_compilation_cache"]:
        return
    given = jax.config.values["jax_compilation_cache_dir"]
    if VARIABLE in os.environ or given is not None:
        if given:
            logging.info("compiled programs are kept in %s", given)
        return
    place = folder()
    try:
        # Whoever writes there has us run programs of theirs.
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        tidy(place, LIMIT)
    except OSError as error:
        logging.warning("compiled programs are not kept: %s", error)
        return
    jax.config.update("jax_compilation_cache_dir", str(place))
    logging.info("compiled programs are kept in %s (%s: elsewhere)", place, VARIABLE)


def tidy(place: Path, limit: int) -> None:
    """Removes what was not used for longest until the rest has at most `limit` bytes.

    JAX's own bound wants a package more, and a process that is killed while it writes
    has every later one of them keep nothing.
    """
    used = []
    for path in place.iterdir():
        with contextlib.suppress(FileNotFoundError):  # another process tidies, too
            status = path.stat()
            if stat.S_ISREG(status.st_mode):
                last = max(status.st_atime, status.st_mtime)
                used.append((last, status.st_size, path))
    total = sum(size for _, size, _ in used)
    for _, size, path in sorted(used):
        if total <= limit:
            break
        path.unlink(missing_ok=True)
        total -= size
