"""Eight CPU devices, strict ranks, and the reference data where it is at hand."""

import collections
import os
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Most of the suite's time is compiling programs that run once. XLA's flags stay out of
# processes that tests start as a user would.
_XLA_FLAGS = (
    "--xla_force_host_platform_device_count=8",
    "--xla_backend_optimization_level=0",
    "--xla_cpu_use_fusion_emitters=false",
)
os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *_XLA_FLAGS])

import jax  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")

REPOSITORY = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("VIT_JAX_SHARED", REPOSITORY.parent / "shared"))


@pytest.fixture(scope="session")
def golden() -> Path:
    """Weights, inputs and outputs of the reference implementations."""
    return REPOSITORY / "tests" / "golden" / "reference"


@pytest.fixture(scope="session")
def shared_data(tmp_path_factory) -> Path:
    """Real images in TFDS form: cifar10, imagenet_samples, tfrecord_samples."""
    if (SHARED / "data").exists():
        return SHARED / "data"
    import stand_ins  # of modules with tests, which are not to be imported before

    return stand_ins.write(tmp_path_factory.mktemp("data"))


def pytest_terminal_summary(terminalreporter):
    """How many tests were left out, and why."""
    reasons = collections.Counter()
    for report in terminalreporter.stats.get("skipped", ()):
        reasons[report.longrepr[2].removeprefix("Skipped: ")] += 1
    if reasons:
        listed = ", ".join(f"{count} as {why}" for why, count in reasons.most_common())
        terminalreporter.write_line(f"skipped {reasons.total()}: {listed}")
