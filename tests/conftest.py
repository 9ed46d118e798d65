"""Eight CPU devices, strict ranks, and the reference data where it is at hand."""

import collections
import gc
import os
import tempfile
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Most of the suite's time is compiling programs that run once. XLA's flags stay out of
# processes that tests start as a user would.
_XLA_FLAGS = (
    "--xla_force_host_platform_device_count=8",
    "--xla_backend_optimization_level=0",
    "--xla_cpu_use_fusion_emitters=false",
    "--xla_cpu_parallel_codegen_split_count=1",  # programs are small
)
os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *_XLA_FLAGS])
# What programs keep for a second start goes where the tests end, not into a home, and
# of commands no compiled program is kept.
_CACHE = tempfile.TemporaryDirectory(prefix="vit_jax-tests-")
os.environ["VIT_JAX_CACHE"] = _CACHE.name
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", "")

import jax  # noqa: E402
import jax.monitoring  # noqa: E402
import pytest  # noqa: E402
from jax.experimental.compilation_cache import compilation_cache  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")

# Tracing makes many small objects and few cycles: to look for those after every 700
# objects, as Python does, takes a twentieth of the time.
gc.set_threshold(10_000, 10, 10)

# What takes longest, first: two workers then end at about the same time.
LONGEST = (
    *("test_train", "test_layouts", "test_models_vit", "test_masked"),
    *("test_configs", "test_evaluate", "test_models_bit", "test_unchanged"),
)

REPOSITORY = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("VIT_JAX_SHARED", REPOSITORY.parent / "shared"))


@pytest.fixture(scope="session")
def golden(tmp_path_factory) -> Path:
    """Weights, inputs and outputs of the reference implementations."""
    import references

    return references.write(tmp_path_factory.mktemp("golden"))


@pytest.fixture(scope="session")
def shared_data(tmp_path_factory) -> Path:
    """Real images in TFDS form: cifar10, imagenet_samples, tfrecord_samples."""
    if (SHARED / "data").exists():
        return SHARED / "data"
    import stand_ins  # of modules with tests, which are not to be imported before

    return stand_ins.write(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def compiled_once(tmp_path_factory):
    """What one test of a file compiled is read by its others, from a cache on disk."""
    folder = str(tmp_path_factory.mktemp("programs"))
    changed = {
        "jax_compilation_cache_dir": folder,
        "jax_persistent_cache_min_compile_time_secs": 0.1,
    }
    before = {name: getattr(jax.config, name) for name in changed}
    for options in (changed, before):
        for name, value in options.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()  # it looks at the options once
        if options is changed:
            yield


@pytest.fixture
def compiled():
    """The seconds that each program took that the test has compiled so far."""
    found = []

    def listen(name, seconds, **_):
        if name == "/jax/core/compile/backend_compile_duration":
            found.append(seconds)

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield found
    jax.monitoring.unregister_event_duration_listener(listen)


def pytest_collection_modifyitems(items):
    """Puts the longest files first."""
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(places)))


def _cpu_seconds() -> float:
    """Of this process and the ended ones that it started, in user and system mode."""
    return sum(os.times()[:4])


_of_workers: list[float] = []


def pytest_sessionfinish(session):
    """A worker of pytest-xdist tells how much CPU time it took."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["cpu_seconds"] = _cpu_seconds()


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node):
    """A worker of pytest-xdist has ended."""
    told = getattr(node, "workeroutput", {})  # none where it crashed
    _of_workers.append(told.get("cpu_seconds", 0.0))


def pytest_terminal_summary(terminalreporter):
    """The CPU time of all processes; how many tests were left out, and why."""
    own = sum(os.times()[:2]) if _of_workers else _cpu_seconds()
    minutes = (own + sum(_of_workers)) / 60
    terminalreporter.write_line(f"CPU time, user and system: {minutes:.1f} minutes")
    reasons = collections.Counter()
    for report in terminalreporter.stats.get("skipped", ()):
        reasons[report.longrepr[2].removeprefix("Skipped: ")] += 1
    if reasons:
        listed = ", ".join(f"{count} as {why}" for why, count in reasons.most_common())
        terminalreporter.write_line(f"skipped {reasons.total()}: {listed}")
