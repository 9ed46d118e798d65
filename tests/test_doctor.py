"""The doctor: every line has its status, and what would fail is told before it does."""

import importlib.util
import json
import sys
import time
import tomllib
from pathlib import Path

import commands
import pytest

from vit_jax import cli
from vit_jax.commands import doctor

REPOSITORY = Path(__file__).resolve().parent.parent


def statuses(lines):
    return {line.about: line.status for line in lines}


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty home without any variable of ours, and the current folder."""
    names = ("TFDS_DATA_DIR", "HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE")
    more = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "XDG_CACHE_HOME")
    for name in (*names, *more, "VIT_JAX_CACHE", "JAX_COMPILATION_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_versions_are_in_their_ranges_or_fail():
    import jax

    assert doctor.within(jax.__version__, ">=0.10.2,<0.12")
    for version, wanted in {"0.12.0": "<0.12", "0.9": ">=0.10", "1.1": "==1.2"}.items():
        assert not doctor.within(version, wanted)
        assert doctor.within("0.11.5", ">=0.10,<0.12")
    found = statuses(
        doctor.versions(["jax>=99", "no_such_package>=1", "numpy>=2.0,<3"])
    )
    assert found == {
        "jax": doctor.FAILS,
        "no_such_package": doctor.FAILS,
        "packages": doctor.OK,
    }


def test_devices_that_do_not_answer_are_not_waited_for():
    start = time.monotonic()
    hang = [sys.executable, "-c", "import time; time.sleep(60)"]
    (line,) = doctor.devices(0.5, hang)
    assert line.status == doctor.FAILS and "JAX_PLATFORMS=cpu" in line.text
    assert time.monotonic() - start < 20


def test_a_back_end_that_breaks_says_why():
    broken = [sys.executable, "-c", "raise RuntimeError('no driver')"]
    (line,) = doctor.devices(30, broken)
    assert line.status == doctor.FAILS and "no driver" in line.text


def test_an_accelerator_that_is_not_used_is_a_warning(tmp_path, monkeypatch):
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    monkeypatch.setattr(doctor, "ACCELERATORS", {"cuda": (str(tmp_path),)})
    cpu = [sys.executable, "-c", 'print(\'["cpu", "cpu", 2, null]\')']
    first, second = doctor.devices(30, cpu)
    assert first.status == doctor.OK and "2 of cpu" in first.text
    assert second.status == doctor.WARNING and "vit_jax[cuda]" in second.text
    gpu = [sys.executable, "-c", 'print(\'["gpu", "H100", 1, 85899345920]\')']
    (line,) = doctor.devices(30, gpu)
    assert "80.0 GiB" in line.text


def test_data_that_are_prepared_are_named(home):
    (line,) = doctor.data("")
    assert line.status == doctor.WARNING and "tensorflow_datasets" in line.text
    (line,) = doctor.data(str(home / "none"))
    assert line.status == doctor.FAILS, "it was asked for"
    (line,) = doctor.data("gs://bucket/data")
    assert line.status == doctor.FAILS
    for name in ("cifar10/3.0.2", "eurosat/rgb/2.0.0"):
        (home / "data" / name).mkdir(parents=True)
        (home / "data" / name / "dataset_info.json").write_text("{}")
    (line,) = doctor.data(str(home / "data"))
    assert line.status == doctor.OK
    assert "cifar10:3.0.2, eurosat/rgb:2.0.0" in line.text


def test_caches_are_where_libraries_look_for_them(home, monkeypatch):
    hub = home / "hub"
    (hub / "models--google--vit").mkdir(parents=True)
    monkeypatch.setenv("HF_HUB_CACHE", str(hub))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "/proc/none")
    found = {line.about: line for line in doctor.caches()}
    assert "1 models" in found["Hugging Face"].text
    assert "HF_HUB_OFFLINE" in found["Hugging Face"].text
    assert str(home / ".cache/vit_jax") in found["downloads"].text
    assert found["compiled"].status == doctor.WARNING
    assert not (home / ".cache").exists(), "nothing is written"


def test_every_extra_that_users_ask_for_has_a_row():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    of_machines_and_developers = {
        *("tpu", "cuda", "test", "test-torch", "benchmarks", "docs", "fuzz")
    }
    extras = set(project["optional-dependencies"]) - of_machines_and_developers
    assert set(doctor.EXTRAS) == extras


def test_an_extra_that_is_missing_says_for_what(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert set(statuses(doctor.extras()).values()) == {doctor.WARNING}
    assert all("pip install 'vit_jax[" in line.text for line in doctor.extras())


@pytest.mark.parametrize(("arguments", "code"), [([], 0), (["--data_dir=none"], 2)])
def test_the_exit_code_is_2_where_something_fails(
    arguments, code, home, monkeypatch, capsys
):
    good = doctor.Line("devices", doctor.OK, "1 of cpu (cpu)")
    monkeypatch.setattr(doctor, "devices", lambda timeout: iter([good]))
    monkeypatch.setattr(doctor, "python", lambda: iter(()))
    for flag in ("--nojson", "--json"):
        with commands.own_flags("doctor") as module:
            rest = commands.parse("doctor", ["doctor", flag, *arguments])
            assert cli.guard(module._main, rest) == code
    *lines, last = capsys.readouterr().out.splitlines()
    found = json.loads(last)
    assert found["status"] == ("fails" if code else "warning")
    assert [line.split()[0] for line in lines] == [
        check["status"] for check in found["checks"]
    ]
