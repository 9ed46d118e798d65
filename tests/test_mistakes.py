"""Mistakes of new users, each answered by one short error that names what is wrong.

A row is the command, its arguments ("{x}" is a path of the fixture `place`) and a word
of the answer. All run in this process; nothing may be written.
"""

import json
import logging
import runpy
import subprocess
import sys
from pathlib import Path

import commands
import jax
import numpy as np
import pytest

import vit_jax
from vit_jax import cli, errors, host, models
from vit_jax.data import preprocessing
from vit_jax.weights import files

REPOSITORY = Path(__file__).resolve().parent.parent
QUICK = f"--config={REPOSITORY}/configs/quickstart.py"
TINY = "--config.model.depth=1 --config.model.width=32 --config.total=9"

RECIPE = """from configs import base


def get_config():
    config = base.get_config()
    {line}
    return config
"""
# Recipes of a user's own, by name: a line in the middle of one that is right.
LINES = {
    "typo": "config.optimzer.lr = 1.0",
    "new_key": "config.optimizer.lrr = 1.0",
    "syntax": "config.total = = 3",
    "indent": "  config.seed = 1",
    "raises": "config.optimizer.lr = 1 / 0",
    "name": "config.optimizer.lr = rate",
    "imports": "import nonesuch",
    "returns_none": "return None",
    "returns_dict": "return {'total': '3 steps'}",
    "returns_text": "return 'B/16'",
    "part": "config.optimizer = {'lr': 1.0}",
    "text_for_int": "config.batch_size = '64'",
    "none": "config.total = None",
    "unlocked": "config.unlock(); config.batchsize = 3",
    "wants": "raise ValueError('want a Tuesday')",
    "eval_number": "config.evals.val = 3",
    "eval_half": "base.set_evals(config, val={'type': 'classify'})",
}

QUICK_TINY = f"{QUICK} {TINY}"
MAIN = {
    "shares as words": (f"{QUICK} --config.optimizer.drop_at=a", "drop_at"),
    "rules without factors": (f"{QUICK} --config.optimizer.lr_rules=head", "lr_rules"),
    "a range of words": (f"{QUICK} --config.data.train.area=('a','b')", "area"),
    "a key of another evaluation": (
        f"{QUICK_TINY} --config.evals.test.shots=1",
        "evals.test.shots",
    ),
    "no config": ("", "--config=FILE"),
    "empty config": ("--config=", "--config=FILE"),
    "config without a value": ("--config", "--config"),
    "a file that is not there": ("--config=configs/vit_b17.py", "vit_b16.py"),
    "a recipe by a wrong name": ("--config=vit_b17", '"vit_b16"'),
    "a recipe in the wrong folder": ("--config=vit_b16.py", "configs/vit_b16.py"),
    "a folder": ("--config={repository}/configs", "is a folder"),
    "a recipe that is text": ("--config={text}", "text.txt, line 1"),
    "a recipe that is binary": ("--config={binary}", "binary"),
    "an unknown argument": ("--config={configs}/vit_b16.py:x", "i1k, i21k, jft"),
    "an argument too many": (f"{QUICK}:B/16", "no argument"),
    "half of the arguments": ("--config={configs}/finetune.py:B/16", "MODEL,TASK"),
    "a Mixer on JFT": ("--config={configs}/mixer.py:Mixer-B/16,jft", "known: i1k"),
    "an unknown key": (f"{QUICK} --config.optimizer.lrr=1", '"optimizer.lr"'),
    "an unknown section": (f"{QUICK} --config.optimzer.lr=1", '"optimizer.lr"'),
    "a section as a key": (f"{QUICK} --config.optimizer=sgd", "optimizer.beta1"),
    "a key before the config": (f"--config.total=3 {QUICK}", "--config.total"),
    "a key without a value": (f"{QUICK} --config.total", "--config.total"),
    "words for a number": (f"{QUICK} --config.batch_size=many", "batch_size=many"),
    "words for a switch": (f"{QUICK} --config.keep_head=maybe", "keep_head=maybe"),
    "words for a size": (f"{QUICK} --config.model.image_size=big", "224x192"),
    "evaluations as numbers": (f"{QUICK} --config.evals={{'a':1}}", "which evalu"),
    "flags without dashes": (f"{QUICK} config.total=3", "config.total=3"),
    "an unknown flag": (f"{QUICK} --wrokdir=x", "workdir"),
    "recipe: a typo": ("--config={typo}", "line 6: config.optimzer.lr = 1.0"),
    "recipe: a new key": ("--config={new_key}", '"optimizer.lr"'),
    "recipe: syntax": ("--config={syntax}", "syntax.py, line 6: invalid syntax"),
    "recipe: indentation": ("--config={indent}", "indent.py, line 6"),
    "recipe: an exception": ("--config={raises}", "line 6"),
    "recipe: an unknown name": ("--config={name}", "'rate'"),
    "recipe: a missing import": ("--config={imports}", "nonesuch"),
    "recipe: no get_config": ("--config={no_get_config}", '"get_cfg"'),
    "recipe: returns None": ("--config={returns_none}", "return config"),
    "recipe: returns a dict": ("--config={returns_dict}", "a dict"),
    "recipe: returns text": ("--config={returns_text}", "'B/16'"),
    "recipe: lacks keys": ("--config={part}", "optimizer.beta1"),
    "recipe: text for a number": ("--config={text_for_int}", "batch_size"),
    "recipe: None": ("--config={none}", "total=None"),
    "recipe: an extra key": ("--config={unlocked}", '"batch_size"'),
    "recipe: says what it wants": ("--config={wants}", ": want a Tuesday"),
    "recipe: an evaluation by number": ("--config={eval_number}", "line 6"),
    "recipe: half an evaluation": ("--config={eval_half}", "evals.val"),
    "a rate that is no number": (f"{QUICK} --config.optimizer.lr=nan", "lr=nan"),
    "no images": (f"{QUICK} --config.batch_size=0", "batch_size=0"),
    "an endless run": (f"{QUICK} --config.total=soon", "300 epochs"),
    "no length": (f"{QUICK} --config.total=", "total is empty"),
    "a long warmup": (f"{QUICK} --config.optimizer.warmup=9999999", "warmup"),
    "an unknown writer": (f"{QUICK} --config.log.writers=wandbb", '"wandb"'),
    "an unknown loss": (f"{QUICK} --config.loss=hinge", "sigmoid, softmax"),
    "an unknown schedule": (f"{QUICK} --config.optimizer.schedule=cosin", "cosine"),
    "an unknown optimizer": (f"{QUICK} --config.optimizer.name=adamw", "adam"),
    "an unknown model": (f"{QUICK} --config.model.name=ViT-B", "ViT-B"),
    "a patch too large": (f"{QUICK} --config.model.image_size=18", "18"),
    "heads that do not divide": (f"{QUICK} --config.model.heads=5", "5"),
    "an unknown pool": (f"{QUICK} --config.model.pool=avg", "map"),
    "images too often": (f"{QUICK_TINY} --config.data.repeats=999", "repeats=999"),
    "a balance of weights": (
        f"{QUICK_TINY} --config.data.balance=1 --config.data.dataset=mix:1*digits",
        "data.balance=1 of a mixture",
    ),
    "a weight that never comes": (
        f"{QUICK_TINY} --config.data.dataset=mix:999999*digits,1*digits",
        "less than one",
    ),
    "classes of a mixture": (
        f"{QUICK} --config.data.classes=1 --config.data.dataset=mix:1*digits",
        "data.classes and columns",
    ),
    "work of the host on the device": (
        f"{QUICK_TINY} --config.data.cache=device --config.data.train.erase=0.5",
        'cache="device" keeps images',
    ),
    "crops on the device": (
        f"{QUICK_TINY} --config.data.cache=device",
        'cache="device" cannot resample images',
    ),
    "a teacher of nobody": (
        f"{QUICK} --config.distill.teacher=x.npz",
        "objective=distillation",
    ),
    "half a mean": (f"{QUICK} --config.data.mean=1", "data.mean"),
    "an unknown cache": (f"{QUICK} --config.data.cache=disk", "data.cache"),
    "an unknown crop": (f"{QUICK} --config.data.train.transform=crop", "transform"),
    "an unknown layout": (f"{QUICK_TINY} --config.mesh.layout=ddp", "zero1"),
    "an odd batch": (f"{QUICK} --config.batch_size=63", "batch_size=63"),
    "odd microbatches": (f"{QUICK} --config.microbatches=7", "microbatches"),
    "devices that are not there": (f"{QUICK} --config.mesh.data=999", "999"),
    "an unknown dataset": (f"{QUICK} --config.data.dataset=digit", '"digits"'),
    "data that are not there": (
        "--config={configs}/vit_b16.py --config.data.data_dir={empty}",
        "--config.data.dataset=digits",
    ),
    "a folder that is not there": (
        f"{QUICK} --config.data.dataset=folder:{{empty}}/none",
        "none",
    ),
    "an unknown split": (f"{QUICK} --config.data.train_split=trian", '"train"'),
    "half a slice": (f"{QUICK} --config.data.train_split=train[:", "train[:98%]"),
    "an unknown evaluation": (
        f"{QUICK_TINY} --config.evals.test.type=nearest",
        "fewshot",
    ),
    "an evaluation's split": (f"{QUICK_TINY} --config.evals.test.split=val", "val"),
    "an evaluation's length": (f"{QUICK_TINY} --config.evals.test.every=x", "every"),
    "masked prediction of a classifier": (
        "--config={masked_eval}",
        "objective",
    ),
    "weights that are not there": (
        f"{QUICK_TINY} --config.init_from={{empty}}/a.npz",
        "a.npz",
    ),
    "weights that are text": (f"{QUICK_TINY} --config.init_from={{text}}", "text"),
    "weights that do not fit": (
        f"{QUICK_TINY} --config.init_from={{weights}}",
        "checkpoint",
    ),
    "a checkpoint without weights": (
        f"{QUICK} --config.model.name=checkpoint",
        "init_from",
    ),
    "what a checkpoint decides": (
        f"{QUICK} --config.model.name=checkpoint --config.init_from={{weights}} "
        "--config.model.registers=4 --config.model.pool=mean",
        "model.registers=4",
    ),
    "a bucket as the workdir": (f"{QUICK} --workdir=gs://bucket/run", "gs://"),
    "a web address as the workdir": (f"{QUICK} --workdir=https://a.b/c", "https://"),
    "a file as the workdir": (f"{QUICK_TINY} --workdir={{text}}", "text.txt"),
    "a workdir below a file": (f"{QUICK_TINY} --workdir={{text}}/a", "text.txt"),
    "another run's workdir": (
        f"{QUICK_TINY} --config.seed=3 --workdir={{other}}",
        "seed: 0 there, 3 in this call",
    ),
    "a damaged workdir": (f"{QUICK_TINY} --workdir={{damaged}}", "config.json"),
    "half a cluster": (f"{QUICK} --processes=2", "--coordinator"),
}
OTHERS = {
    "evaluate: nothing": ("evaluate", "", "--checkpoint"),
    "evaluate: no checkpoint there": (
        "evaluate",
        "--checkpoint={empty}/a --dataset=digits",
        "does not exist",
    ),
    "evaluate: an empty folder": (
        "evaluate",
        "--checkpoint={empty} --dataset=digits",
        "no checkpoint",
    ),
    "evaluate: no images": (
        "evaluate",
        "--checkpoint={weights} --dataset=digits --batch_size=0",
        "--batch_size=0",
    ),
    "evaluate: more images than memory": (
        "evaluate",
        "--checkpoint={weights} --dataset=digits --batch_size=9000000000",
        "want at most",
    ),
    "evaluate: data in a bucket": (
        "evaluate",
        "--checkpoint={weights} --dataset=cifar10 --data_dir=gs://b/tfds",
        "data_dir=gs://b/tfds",
    ),
    "evaluate: an unknown dataset": (
        "evaluate",
        "--checkpoint={weights} --dataset=digitz",
        '"digits"',
    ),
    "evaluate: an unknown split": (
        "evaluate",
        "--checkpoint={weights} --dataset=digits --split=tset",
        '"test"',
    ),
    "evaluate: a head for others": (
        "evaluate",
        "--checkpoint={weights} --dataset=digits",
        "classes",
    ),
    "evaluate: words for shots": (
        "evaluate",
        "--checkpoint={weights} --dataset=digits --fewshot --shots=one",
        "--shots",
    ),
    "evaluate: a flag without dashes": ("evaluate", "checkpoint=x", "checkpoint=x"),
    "evaluate: an unknown flag": ("evaluate", "--ckpt=x", "ckpt"),
    "predict: no checkpoint": ("predict", "a.jpg", "--checkpoint"),
    "predict: no image": ("predict", "--checkpoint={weights}", "IMAGE"),
    "predict: no classes": ("predict", "--checkpoint={weights} --top_k=0 a", "top_k"),
    "predict: no checkpoint there": ("predict", "--checkpoint=none.npz a", "none.npz"),
    "predict: words for a number": ("predict", "--top_k=all a", "--top_k=all"),
    "convert: nothing": ("convert", "", "SOURCE TARGET"),
    "convert: no dialect": ("convert", "{weights} out", "--dialect"),
    "convert: an unknown dialect": (
        "convert",
        "{weights} out --dialect=pytorch",
        "timm",
    ),
    "convert: another family": ("convert", "{weights} out --dialect=mixer", "mixer"),
    "convert: no source": ("convert", "a.npz out --dialect=timm", "a.npz"),
    "convert: there is one": ("convert", "{weights} {text} --dialect=timm", "exists"),
    "convert: to a bucket": ("convert", "{weights} gs://b/x --dialect=timm", "gs://"),
    "convert: half an option": (
        "convert",
        "{weights} out --dialect=timm --option=heads",
        "heads=12",
    ),
    "convert: words for a size": (
        "convert",
        "{weights} out --dialect=timm --image_size=big",
        "image_size",
    ),
    "plan: no config": ("plan", "--fast", "--config=FILE"),
    "plan: an unknown slice": ("plan", f"{QUICK} --topology=v9:2x2", "v9"),
    "plan: advice without a slice": ("plan", f"{QUICK} --advise", "--topology"),
    "plan: words for a batch": ("plan", f"{QUICK} --batch_size=big", "batch_size"),
    "plan: to a bucket": ("plan", f"{QUICK} --keep=s3://b/x", "s3://"),
    "models: no such name": ("models", "X*", "X*"),
    "models: an unknown size": ("models", "B16", "B16"),
    "models: two patterns": ("models", "B/16 L/16", "PATTERN"),
}
PYTHON = {
    "create: an unknown model": (
        lambda place: vit_jax.create_model("ViT-B/16", num_classes=10),
        "ViT-B",
    ),
    "create: text for a number": (
        lambda place: vit_jax.create_model("Ti/16", num_classes="10"),
        "num_classes='10'",
    ),
    "create: words for a size": (
        lambda place: vit_jax.create_model("Ti/16", num_classes=1, image_size="big"),
        "image_size",
    ),
    "create: a negative number": (
        lambda place: vit_jax.create_model("Ti/16", num_classes=-1),
        "num_classes",
    ),
    "create: an unknown option": (
        lambda place: vit_jax.create_model("Ti/16", num_classes=1, droput=0.1),
        '"dropout"',
    ),
    "create: an unknown dtype": (
        lambda place: vit_jax.create_model(
            "Ti/16", num_classes=1, compute_dtype="float99"
        ),
        "bfloat16",
    ),
    "create: a rate above one": (
        lambda place: vit_jax.create_model("Ti/16", num_classes=1, dropout=1.5),
        "dropout",
    ),
    "load: nothing there": (lambda place: vit_jax.load("none.npz"), "none.npz"),
    "load: text": (lambda place: vit_jax.load(place["text"]), "text.txt"),
    "load: an empty folder": (
        lambda place: vit_jax.load(place["empty"]),
        "no checkpoint",
    ),
}
LAUNCH = {
    "launch: local without flags": ("local.py", "--processes=2", "--config=FILE"),
    "launch: no bucket": (
        "tpu_vm.py",
        "--name=n --zone=z --type=v4-8 --bucket=b -- --config=c",
        "gs://BUCKET",
    ),
    "launch: nothing to supervise": ("supervise.py", "", "COMMAND"),
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Files that mistakes are made with, by name."""
    root = tmp_path_factory.mktemp("place")
    found = {"repository": REPOSITORY, "configs": REPOSITORY / "configs"}
    for name in ("empty", "other", "damaged"):
        found[name] = root / name
        found[name].mkdir()
    for name, text in {"text": "hello there\n", "binary": "a\0b"}.items():
        found[name] = root / f"{name}.txt"
        found[name].write_text(text)
    for name, line in LINES.items():
        found[name] = root / f"{name}.py"
        found[name].write_text(RECIPE.format(line=line))
    found["no_get_config"] = root / "no_get_config.py"
    found["no_get_config"].write_text("def get_cfg():\n    pass\n")
    found["masked_eval"] = root / "masked_eval.py"
    found["masked_eval"].write_text(
        "from configs import base, quickstart\n\n\ndef get_config():\n"
        "    config = quickstart.get_config()\n"
        "    base.set_evals(config, test=base.masked('test'))\n    return config\n"
    )
    found["weights"] = root / "weights.npz"
    write_weights(found["weights"])
    quick = run_path(REPOSITORY / "configs/quickstart.py")["get_config"]()
    quick.model.depth, quick.model.width, quick.total = 1, 32, "9"
    (found["other"] / "config.json").write_text(json.dumps(quick.to_dict()))
    (found["damaged"] / "config.json").write_text("{")
    return {name: str(path) for name, path in found.items()}


def run_path(path):
    return runpy.run_path(str(path))


def write_weights(path):
    """A ViT of seven classes, zeros, as Google's code names them."""
    options = {"width": 32, "depth": 1, "heads": 4, "mlp_width": 64}
    arch = models.architecture("Ti/4", num_classes=7, image_size=16, **options)
    params = jax.tree.map(
        lambda leaf: np.zeros(leaf.shape, np.float32), models.abstract(arch)[1]
    )
    wanted = preprocessing.Preprocessing(image_size=(16, 16))
    files.write(files.Weights(arch, params, wanted, "google", None), path, "google")


def call(command, argv, monkeypatch):
    """The exit code of a command that runs in this process."""
    monkeypatch.setattr(sys, "argv", argv)
    rest = []
    with commands.own_flags(command) as module:
        try:
            code = cli.guard(lambda: rest.extend(commands.parse(command, argv)))
            return code or cli.guard(module._main, rest)
        except SystemExit as stop:
            return stop.code


def files_of(*folders):
    return {path for folder in folders for path in Path(folder).rglob("*")}


def check(code, text, word):
    assert code == errors.EXIT_BAD_INPUT, text
    assert "Traceback" not in text
    message = text[text.index("error: ") :]
    assert word in message, message
    assert len(message.splitlines()) <= 10, message
    assert text.count("error: ") == 1, "it stands alone"
    assert "Error: " not in text.split("\n")[0]
    return message


ROWS = {name: ("main", *row) for name, row in MAIN.items()} | OTHERS


@pytest.mark.parametrize("name", ROWS)
def test_a_mistake_is_one_short_error(
    name, place, tmp_path, monkeypatch, capsys, caplog
):
    command, arguments, word = ROWS[name]
    caplog.set_level(logging.INFO)
    monkeypatch.chdir(tmp_path)
    before = files_of(tmp_path, place["empty"], place["other"], place["damaged"])
    words = arguments.replace("{'a':1}", "{{'a':1}}").format(**place).split()
    code = call(command, [command, *words], monkeypatch)
    captured = capsys.readouterr()
    check(code, captured.err, word)
    assert captured.out == ""
    assert "GMAC an image" not in caplog.text, "before the table of parameters"
    after = files_of(tmp_path, place["empty"], place["other"], place["damaged"])
    assert before == after, "nothing is written"


@pytest.mark.parametrize("name", PYTHON)
def test_a_mistake_in_python_is_one_short_error(name, place):
    call_, word = PYTHON[name]
    with pytest.raises(errors.UserError) as caught:
        call_(place)
    assert word in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 10


@pytest.mark.parametrize("name", LAUNCH)
def test_a_mistake_at_a_launch_is_one_short_error(name, monkeypatch, capsys):
    file, arguments, word = LAUNCH[name]
    monkeypatch.setattr(sys, "argv", [file, *arguments.split()])
    monkeypatch.syspath_prepend(REPOSITORY / "launch")
    with pytest.raises(SystemExit) as caught:
        runpy.run_path(str(REPOSITORY / "launch" / file), run_name="__main__")
    text = capsys.readouterr().err
    assert caught.value.code == 2 and word in text
    assert len(text.splitlines()) <= 10 and "Traceback" not in text


def test_there_are_enough_of_them():
    assert len(ROWS) + len(PYTHON) + len(LAUNCH) >= 75


@pytest.mark.parametrize("module", ["vit_jax.train"])
def test_what_is_no_command_says_so(module):
    found = subprocess.run(
        [sys.executable, "-m", module], capture_output=True, text=True, cwd=REPOSITORY
    )
    assert found.returncode == 2
    assert "vit_jax.main" in found.stderr and len(found.stderr.splitlines()) == 1


def test_a_container_has_what_its_group_may_use(tmp_path, monkeypatch):
    """Version 1 and 2 of control groups, the limit of a parent too."""
    group = tmp_path / "a" / "b"
    group.mkdir(parents=True)
    (group / "memory.max").write_text("max\n")
    (group.parent / "memory.max").write_text("5000000\n")
    (group.parent / "memory.current").write_text("3000000\n")
    (group.parent / "memory.stat").write_text("anon 1\ninactive_file 500000\n")
    (tmp_path / "cgroup").write_text("0::/a/b\n")
    monkeypatch.setattr(host, "_MOUNT", tmp_path)
    monkeypatch.setattr(host, "_CGROUPS", tmp_path / "cgroup")
    assert host.total_memory() == 5_000_000
    assert host.available_memory() == 2_500_000
    old = tmp_path / "memory" / "c"
    old.mkdir(parents=True)
    (old / "memory.limit_in_bytes").write_text("4000000")
    (old / "memory.usage_in_bytes").write_text("4000000")
    (old / "memory.stat").write_text("total_inactive_file 1000000")
    (tmp_path / "cgroup").write_text("4:memory:/c\n3:cpu:/c\n0::/\n")
    assert (host.total_memory(), host.available_memory()) == (4_000_000, 1_000_000)


def test_no_memory_is_an_error_with_what_there_is(monkeypatch, capsys):
    monkeypatch.setattr(host, "available_memory", lambda: 3 * 2**30)

    def big():
        raise MemoryError("Unable to allocate 9 TiB")

    assert cli.guard(big) == errors.EXIT_BAD_INPUT
    said = capsys.readouterr().err
    assert said.startswith("error: out of memory, 3.00 GiB can be had: Unable to")
