"""The table of hostile inputs: what is tried, by name."""

from chaos.hostile import DEEP, LONG, NOT_UTF8, QUICK, RTL, TRAIN, Row
from chaos.hostile_places import JSON, TOY

from vit_jax.settings import packaged, validation

ROWS: dict[str, Row] = {}


def add(name: str, command: str, *words: str, codes: tuple[int, ...] = (2,)) -> None:
    assert name not in ROWS, name
    ROWS[name] = Row(command, words, codes)


EITHER = (0, 2)
PATHS = {
    "long": LONG,
    "deep": DEEP,
    "root": "/",
    "proc": "/proc",
    "mem": "/proc/self/mem",
    "zero": "/dev/zero",
    "fifo": "{fifo}",
    "loop": "{loop}",
    "circle": "{circle}",
    "nul": "a\0b",
    "not utf-8": NOT_UTF8,
    "rtl": RTL,
    "climbs": "../" * 200 + "etc/passwd",
    "empty": "",
    "spaces": "   ",
    "dots": "..",
    "newline": "a\nb",
    "escape": "{escape}",
    "tilde": "~nobody_of_that_name/x",
    "format": "%s%n{{}}$(touch executed)`touch executed`",
}

# --- every word that is a path, in every command -------------------------------------
for name, path in PATHS.items():
    # An error of reading may pass, as the next try shows: 42.
    read = (2, 42) if name == "mem" else (2,)
    add(f"train: config {name}", "main", f"--config={path}", codes=read)
    add(f"load: {name}", "load", path, codes=read)
    words = f"--checkpoint={path}", "{jpeg}"
    add(f"predict: checkpoint {name}", "predict", *words, codes=read)
    if name not in ("root", "proc", "circle", "dots"):  # folders of images to walk
        add(f"predict: image {name}", "predict", "--checkpoint={google}", path)
    if name in ("long", "deep", "mem", "zero", "fifo", "loop", "nul"):
        codes = (2,)
        add(
            f"train: workdir {name}",
            "main",
            *TRAIN.split(),
            f"--workdir={path}",
            codes=codes,
        )
    if name not in ("root", "proc"):
        add(f"read: {name}", "read", path)
    add(f"read: folder {name}", "read", f"folder:{path}") if name not in (
        "root",
        "proc",
        "dots",
    ) else None
    words = path, "out.npz", "--dialect=google"
    add(f"convert: source {name}", "convert", *words, codes=read)
    if name in ("long", "deep", "zero", "nul", "mem", "root", "empty"):
        # Beside a device there may be files, in /dev for who may write there.
        out = f"{path}/out" if name == "zero" else path
        add(f"convert: target {name}", "convert", "{google}", path, "--dialect=google")
        add(f"export: out {name}", "export", "{google}", f"--out={path}")
        add(
            f"features: out {name}",
            "features",
            "--checkpoint={google}",
            f"--out={out}.npy",
            "{jpeg}",
        )
        add(
            f"predict: out {name}",
            "predict",
            "--checkpoint={google}",
            f"--out={out}.csv",
            "{jpeg}",
        )
        add(
            f"push: folder {name}",
            "push",
            "{google}",
            "hf://a/b",
            "--dry-run",
            f"--folder={path}",
            codes=EITHER if name == "empty" else (2,),
        )
    for form in ("csv", "wds", "parquet", "hf", "py"):
        if name in (
            "long",
            "zero",
            "fifo",
            "nul",
            "not utf-8",
            "climbs",
            "empty",
            "loop",
            "escape",
        ):
            add(f"read: {form} {name}", "read", f"{form}:{path}")
    if name in ("long", "zero", "nul", "fifo", "empty", "loop"):
        add(f"neighbours: query {name}", "neighbours", path, "{text}")
        add(f"neighbours: features {name}", "neighbours", "{jpeg}", path)
        add(
            f"evaluate: checkpoint {name}",
            "evaluate",
            f"--checkpoint={path}",
            "--dataset=digits",
        )
        add(
            f"evaluate: data_dir {name}",
            "evaluate",
            "--checkpoint={google}",
            "--dataset=cifar10",
            f"--data_dir={path}",
        )
        add(f"plan: config {name}", "plan", f"--config={path}", "--fast")
        add(f"sweep: config {name}", "sweep", path, "--grid=seed=0,1")
        add(
            f"sweep: workdir {name}",
            "sweep",
            "quickstart",
            "--grid=seed=0,1",
            "--grid=config.x=1",
            f"--workdir={path}",
        )
        add(
            f"train: class_names {name}",
            "main",
            *TRAIN.split(),
            "--config.data.dataset=folder:{pictures}",
            "--config.data.train_split=all",
            f"--config.data.class_names={path}",
        )
        add(
            f"train: init_from {name}",
            "main",
            *TRAIN.split(),
            f"--config.init_from={path or '.'}",
        )
        add(
            f"train: data_dir {name}",
            "main",
            *TRAIN.split(),
            "--config.data.dataset=cifar10",
            f"--config.data.data_dir={path}",
        )
        add(f"adapter: {name}", "load", "{google}", f"adapter={path!r}")
        add(f"predict: list {name}", "predict", "--checkpoint={google}", f"@{path}")

for form in ("npz", "py", "safetensors", "csv", "tar", "parquet", "pth", "jpg"):
    add(f"load: a folder.{form}", "load", f"{{folder_{form}}}")
    add(
        f"predict: a folder.{form}",
        "predict",
        "--checkpoint={google}",
        f"{{folder_{form}}}",
    )
for form in ("npz", "safetensors", "pth", "bv", "index.json"):
    add(f"load: pictures as .{form}", "load", f"{{jpeg}}.{form}")
add("train: a folder as a recipe", "main", "--config={folder_py}")
add("train: a binary recipe", "main", "--config={binary}")
add("train: a FIFO as config", "main", "--config={fifo}")
add("read: folder.csv", "read", "csv:{folder_csv}")
add("read: predictions in a folder", "read", "predicted:{folder_csv}")
add("read: folder.tar", "read", "wds:{folder_tar}")
add("read: folder.parquet", "read", "parquet:{folder_parquet}")
add("predict: a list of devices", "predict", "--checkpoint={google}", "@{list_fifo}")
add(
    "predict: a name that is not UTF-8",
    "predict",
    "--checkpoint={google}",
    "{jpeg_utf8}",
)
add("predict: braces", "predict", "--checkpoint={google}", "[" * 3000)
add("predict: stars", "predict", "--checkpoint={google}", "**/" * 500 + "*.jpg")

# --- names ---------------------------------------------------------------------------
WORDS = {
    "long": LONG,
    "nul": "a\0b",
    "not utf-8": "\udcff",
    "rtl": RTL,
    "empty": "",
    "slashes": "/" * 300,
    "lines": "x\n" * 50,
    "escape": "\x1b]0;t\x07\x1b[31m",
}
for name, word in WORDS.items():
    add(f"models: {name}", "models", word)
    add(f"train: model {name}", "main", *TRAIN.split(), f"--config.model.name={word}")
    add(
        f"train: dataset {name}",
        "main",
        *TRAIN.split(),
        f"--config.data.dataset={word}",
    )
    add(f"train: loss {name}", "main", *TRAIN.split(), f"--config.loss={word}")
    add(
        f"train: freeze {name}",
        "main",
        *TRAIN.split(),
        f"--config.optimizer.freeze={word or '+'}",
    )
    add(f"train: total {name}", "main", *TRAIN.split(), f"--config.total={word}")
    add(
        f"train: split {name}",
        "main",
        *TRAIN.split(),
        f"--config.data.train_split={word}",
    )
    add(f"train: a key {name}", "main", *TRAIN.split(), f"--config.{word}=1")
    add(
        f"train: an evaluation {name}",
        "main",
        *TRAIN.split(),
        f"--config.evals.{word}=classify:{word}",
    )
    add(f"train: a flag {name}", "main", *TRAIN.split(), f"--{word or '='}")
    add(
        f"train: writers {name}",
        "main",
        *TRAIN.split(),
        f"--config.log.writers={word or 'x'}",
    )
    add(f"push: name {name}", "push", "{google}", f"hf://{word}/a", "--dry-run")
    add(f"convert: dialect {name}", "convert", "{google}", "out", f"--dialect={word}")
    add(
        f"convert: option {name}",
        "convert",
        "{google}",
        "out.npz",
        "--dialect=google",
        f"--option={word}={word}",
    )
    add(f"prepare: {name}", "prepare", word)
    add(f"plan: topology {name}", "plan", QUICK, f"--topology={word or 'x'}", "--fast")
    add(f"sweep: grid {name}", "sweep", "quickstart", f"--grid={word}")
    add(f"export: format {name}", "export", "{google}", "--out=x", f"--format={word}")
    add(
        f"evaluate: split {name}",
        "evaluate",
        "--checkpoint={google}",
        "--dataset=digits",
        f"--split={word}",
    )

# --- values of configurations --------------------------------------------------------
VALUES = {
    "lr_rules of a word": "optimizer.lr_rules=abc",
    "lr_rules of numbers": "optimizer.lr_rules=(1,2)",
    "lr_rules very deep": "optimizer.lr_rules=" + "(" * 5000 + ")" * 5000,
    "lr_rules of a regex that is none": "optimizer.lr_rules=(('(',1.0),)",
    "decay_rules of nan": "optimizer.decay_rules=(('a',nan),)",
    "decay_rules of text": "optimizer.decay_rules=(('a','b'),)",
    "drop_at of words": "optimizer.drop_at=('a','b')",
    "drop_at of None": "optimizer.drop_at=(None,)",
    "image_size of words": "model.image_size=('a','b')",
    "image_size of floats": "model.image_size=(8.5,8.5)",
    "image_size of nothing": "model.image_size=()",
    "image_size negative": "model.image_size=(-8,8)",
    "image_size huge": "model.image_size=(999999999,999999999)",
    "image_size of digits": "model.image_size=" + "9" * 5000,
    "registers by the billion": "model.registers=1000000000",
    "registers beyond 64 bits": "model.registers=1" + "0" * 30,
    "registers negative": "model.registers=-1",
    "prefix_positions": "model.prefix_positions=1000000000",
    "attention_window": "model.attention_window=-5",
    "a width that cannot be": "model.width=131072",
    "a depth without end": "model.depth=1000000000",
    "heads without end": "model.heads=1000000000",
    "a patch without end": "model.name=Ti/99999999999999999999",
    "a patch of nothing": "model.name=Ti/0",
    "a hybrid of nothing": "model.name=R99999999999999999999+Ti/16",
    "a batch beyond 64 bits": "batch_size=1" + "0" * 40,
    "a batch of digits": "batch_size=" + "9" * 5000,
    "a batch of underscores": "batch_size=1__0",
    "microbatches": "microbatches=65536",
    "a seed": "seed=99999999999999999999",
    "a seed of less": "seed=-1",
    "code as a number": "batch_size=__import__('os').mkdir('executed')",
    "code as a tuple": "data.mean=(__import__('os').mkdir('executed'),)",
    "mean of words": "data.mean=('a','b','c')",
    "mean of lists": "data.mean=((1,),(2,),(3,))",
    "mean of nan": "data.mean=(nan,nan,nan)",
    "std of inf": "data.std=(1e999,1e999,1e999)",
    "std of nothing": "data.std=(0,0,0)",
    "area of lists": "data.train.area=((1,),(2,))",
    "aspect of inf": "data.train.aspect=(1,1e999)",
    "targets of numbers": "lora.targets=(1,2)",
    "targets of lists": "lora.targets=((1,),)",
    "rank": "lora.rank=4096",
    "a total of epochs": "total=99999999999999999999 epochs",
    "a total of e": "total=1e999 steps",
    "a total of digits": "total=" + "9" * 5000,
    "a total of nan": "total=nan",
    "a total of inf": "total=inf epochs",
    "a total of minus": "total=-5 steps",
    "a total of Arabic digits": "total=\u0661\u0660",
    "a total of a dot": "total=1..5",
    "a share beyond": "log_every=500%",
    "a mesh": "mesh.data=99999999999999999999",
    "a mesh of tensors": "mesh.tensor=1024",
    "slices": "mesh.slices=1024",
    "evals as a word": "evals=abc",
    "evals as code": "evals={'a':__import__('os').mkdir('executed')}",
    "an evaluation's shots": "evals.test.shots=1",
    "a few-shot of nothing": "evals.few=fewshot:" + LONG,
    "f1_at": "evals.test.f1_at=nan",
    "writers twice": "log.writers=" + "tensorboard," * 5000 + "x",
    "a section as text": "optimizer={'lr':'a'}",
    "a section that is deep": "optimizer={'a':" * 90 + "1" + "}" * 90,
    "split: digits": "data.train_split=train[:" + "9" * 5000 + "]",
    "split: percent": "data.train_split=train[:" + "9" * 400 + "%]",
    "split: a thousand": "data.train_split=" + "train[:1]+" * 3000 + "train[:1]",
    "split: point": "data.train_split=train[:1.5]",
    "split: braces": "data.train_split=train[[[[:]]]]",
    "split: code": "data.train_split=train[:__import__('os').mkdir('executed')]",
    "dataset: braces": "data.dataset=wds:" + "{a,b}" * 40 + ".tar",
    "dataset: a range": "data.dataset=wds:{0..99999999999999999999}.tar",
    "dataset: ranges": "data.dataset=wds:{0..99999}{0..99999}.tar",
    "dataset: digits in braces": "data.dataset=wds:{0.." + "9" * 5000 + "}.tar",
    "dataset: columns": "data.dataset=digits#image=" + "x" * 5000,
    "dataset: percent": "data.dataset=csv:{csv_climbs}#image=%ff%00,label=%zz",
    "dataset: code": "data.dataset=py:os:getcwd",
    "dataset: no code": "data.dataset=py:nonesuch:x",
    "dataset: a bracket": "data.dataset=parquet:[",
    "data.exif": "data.exif=maybe",
    "data.filter": "data.eval.filter=" + LONG,
    "max_corrupt": "data.max_corrupt=-2",
}  # fmt: skip
for name, value in VALUES.items():
    add(f"value: {name}", "main", *TRAIN.split(), f"--config.{value}")
# In one piece: cut into the parts that a CPU likes it could be.
add(
    "value: a batch that cannot be",
    *("main", *TRAIN.split(), "--config.batch_size=1048576", "--config.microbatches=1"),
)
for name in (
    "registers=1000000000",
    "width=10000000",
    "image_size=(99999,99999)",
    "heads='a'",
    "dropout=nan",
    "patch=(0,0)",
    "patch='a'",
    "patch=[1,2,3]",
    "num_classes=1e9",
    "depth=True",
    "num_classes=100000000000",
    "mlp_width=10**12",
    "image_size=None",
    "resnet=(9,)*9",
    "posemb=[]",
    "norm_epsilon='x'",
    "unroll=-5",
    "remat=5",
    "head_bias=None",
    "compute_dtype=()",
    "attention_window=-1",
    "layer_scale='a'",
    "drop_path=2",
    "resnet=5",
    "resnet_width=-1",
    "image_size=[]",
):
    add(f"create: {name[:30]}", "create", "Ti/4", name)
for name in (
    "heads=[]",
    "grid=5",
    "grid=(0,0)",
    "grid='a'",
    "image_size='a'",
    "image_size=[]",
    "image_size=99999999",
    "num_classes=-5",
    "num_classes='a'",
    "num_classes=99999999999",
    "norm_epsilon=[]",
    "pool={}",
    "gelu=()",
    "posemb_resample=1",
    "channels=-1",
    "channels='a'",
    "patch=0",
    "adapter=5",
    "name=5",
    "a.b=1",
    "=1",
    "heads=10**9",
    "grid=(10**30,1)",
    "depth='a'",
):
    add(f"load: {name}", "load", "{google}", name)
for flag, values in {
    "batch_size": ("0", "-1", "9000000000", "1" + "0" * 40, "nan"),
    "shots": ("-1", "1e9", "99999999999999999999999"),
    "seeds": ("-1", "0"),
    "l2": ("nan", "-1", "inf"),
    "f1_at": ("nan", "7"),
    "labels": (LONG, "\0"),
}.items():
    for value in values:
        add(
            f"evaluate: {flag}={value[:24]!r}",
            "evaluate",
            "--checkpoint={google}",
            "--dataset=folder:{pictures}",
            "--split=all",
            f"--{flag}={value}",
            *(
                ["--fewshot", "--train_split=all"]
                if flag in ("shots", "seeds", "l2")
                else []
            ),
        )
for flag, value in {
    "top_k": "0",
    "batch_size": "-1",
    "part": "9/0",
    "threads": "-1",
    "workers": "99999999999",
    "max_corrupt": "nan",
}.items():
    add(
        f"predict: {flag}",
        "predict",
        "--checkpoint={google}",
        "--out=x.csv",
        "{jpeg}",
        f"--{flag}={value}",
    )
add(
    "predict: part of digits",
    "predict",
    "--checkpoint={google}",
    "--out=x.csv",
    "{jpeg}",
    "--part=" + "9" * 5000 + "/" + "9" * 5001,
)
add(
    "features: layer",
    "features",
    "--checkpoint={google}",
    "--out=x.npy",
    "{jpeg}",
    "--layer=99999999999999999999",
)
add(
    "features: layer -9",
    "features",
    "--checkpoint={google}",
    "--out=x.npy",
    "{jpeg}",
    "--layer=-9",
)
add(
    "features: dtype",
    "features",
    "--checkpoint={google}",
    "--out=x.npy",
    "{jpeg}",
    "--dtype=float8",
)
add("features: form", "features", "--checkpoint={google}", "--out=x.exe", "{jpeg}")
add("export: size", "export", "{google}", "--out=x", "--image_size=99999999")
add("export: size 7", "export", "{google}", "--out=x", "--image_size=7")
add(
    "convert: size",
    "convert",
    "{google}",
    "out.npz",
    "--dialect=google",
    "--image_size=" + "9" * 5000,
)
add(
    "convert: classes",
    "convert",
    "{google}",
    "out.npz",
    "--dialect=google",
    "--num_classes=99999999999999",
)
add("convert: into itself", "convert", "{google}", "{google}/x", "--dialect=google")
add(
    "plan: price",
    "plan",
    QUICK,
    "--fast",
    "--price_per_chip_hour=nan",
    "--batch_size=0",
)
add("plan: slices", "plan", QUICK, "--fast", "--topology=v5e:999999x999999")
add("plan: digits", "plan", QUICK, "--fast", "--topology=v5e:" + "9" * 5000 + "x1")
add("plan: batches", "plan", QUICK, "--fast", "--batch_size=" + ",".join(["x"] * 2000))
add("plan: layout", "plan", QUICK, "--fast", "--layout=" + LONG)
add("plan: registers", "plan", QUICK, "--fast", "--config.model.registers=1000000000")
add(
    "sweep: a million points",
    "sweep",
    "quickstart",
    "--dry_run",
    *(
        f"--grid={k}=" + ",".join(map(str, range(1, 100)))
        for k in ("seed", "keep", "batch_size")
    ),
)
add("sweep: dots", "sweep", "quickstart", "--grid=seed=..")
add("sweep: retries", "sweep", "quickstart", "--grid=seed=0", "--retries=-1")
add("studies: a name", "studies", "run", LONG)
add("studies: two names", "studies", "run", "layer_decay", "augmentation")
add("studies: retries", "studies", "run", "layer_decay", "--retries=x")
add("studies: flags", "studies", "run", "layer_decay", "--dry_run", "--config.=" + LONG)
TRANSFER = ("transfer", "a.npz", "digits", "--model=B/16", "--dry_run")
add("transfer: rates", *TRANSFER, "--rates=" + LONG)
add("transfer: rates nan", *TRANSFER, "--rates=nan")
add("transfer: seeds", *TRANSFER, "--seeds=1,-1")
add("transfer: a split", *TRANSFER, "--test_split=" + LONG)
add("transfer: a model", "transfer", "a.npz", "digits", "--model=" + LONG)
add("transfer: a task", "transfer", "a.npz", LONG, "--model=B/16")
add("doctor: timeout", "doctor", "--timeout=nan")
add("doctor: words", "doctor", "--timeout=" + LONG)
add("models: digits", "models", "Ti/" + "9" * 5000)
add("models: huge patch", "models", "B/99999999")
add("models: brackets", "models", "[" * 5000)
add("models: stars", "models", "*a" * 400)
add("flags: a file", "main", "--flagfile={fifo}x")
add("flags: zero", "main", "--flagfile=/dev/zero")
add("flags: a fifo", "main", "--flagfile={fifo}")
add("flags: a folder", "main", "--flagfile=/proc")
add("flags: binary", "main", "--flagfile={binary}")

# --- recipes -------------------------------------------------------------------------
for name in (
    "loops",
    "exits",
    "deep",
    "huge",
    "object",
    "numpy",
    "recurses",
    "escape",
    "nothing",
    "long",
):
    add(f"recipe: {name}", "main", f"--config={{recipe_{name}}}", TRAIN.split()[-1])

# --- workdirs, datasets and descriptions of others -----------------------------------
for name in JSON:
    add(
        f"workdir: config.json {name}",
        "main",
        *TRAIN.split(),
        f"--workdir={{config_{name}}}",
    )
    add(
        f"push: metrics.jsonl {name}",
        "push",
        f"{{metrics_{name}}}",
        "hf://a/b",
        "--dry-run",
        codes=EITHER,
    )
    add(
        f"sweep: sweep.json {name}",
        "sweep",
        "quickstart",
        "--grid=seed=0",
        "--retries=0",
        f"--workdir={{sweep_{name}}}",
    )
    add(
        f"studies: study.json {name}",
        *("studies", "run", "layer_decay", "--retries=0"),
        f"--workdir={{sweep_{name}}}",
    )
    for document in TOY:
        add(
            f"read: {document}.json {name}",
            "read",
            "toy",
            "train",
            f"{{toys_{document}_{name}}}",
        )
add(
    "workdir: a folder config.json", "main", *TRAIN.split(), "--workdir={folder_config}"
)
add(
    "workdir: a file checkpoints",
    "main",
    *TRAIN.split(),
    "--workdir={file_checkpoints}",
)
add("workdir: odd steps", "load", "{odd_steps}", codes=EITHER)
add(
    "sweep: a folder sweep.json",
    "sweep",
    "quickstart",
    "--grid=seed=0",
    "--retries=0",
    "--workdir={folder_sweep}",
)
add("push: a folder metrics.jsonl", "push", "{folder_metrics}", "hf://a/b", "--dry-run")
for name in (
    "climbs",
    "absolute",
    "minus",
    "digits",
    "wide",
    "roman",
    "nul",
    "long",
    "deep",
    "object",
    "lists",
    "bignum",
    "links",
    "fifos",
    "pax",
    "pax_huge",
    "pax_word",
    "size",
    "text",
    "empty",
    "fifo",
):
    codes = (
        EITHER
        if name
        in (
            "climbs",
            "absolute",
            "roman",
            "minus",
            "digits",
            "wide",
            "nul",
            "long",
            "pax",
        )
        else (2,)
    )
    add(f"tar: {name}", "read", f"wds:{{tar_{name}}}", "all", codes=codes)
for name in (
    "climbs",
    "absolute",
    "nul",
    "latin",
    "cell",
    "header",
    "twice",
    "ragged",
    "digits",
    "wide",
    "escape",
    "quotes",
    "empty",
):
    add(
        f"csv: {name}",
        "read",
        f"csv:{{csv_{name}}}",
        "all",
        codes=EITHER if name in ("digits", "wide") else (2,),
    )
for name in (
    "lists",
    "nulls",
    "texts",
    "struct",
    "wide",
    "floats",
    "nan",
    "minus",
    "dates",
    "no_columns",
    "no_rows",
    "none",
    "deep",
    "label_struct",
    "label_map",
    "label_bytes",
    "escape",
    "hf_list",
    "hf_info",
    "hf_features",
    "hf_names",
    "hf_names2",
    "hf_deep",
    "hf_latin",
    "cut",
    "middle",
    "text",
    "size",
    "empty",
    "fifo",
):
    codes = (
        EITHER
        if name.startswith("hf_") or name in ("nan", "floats", "middle")
        else (2,)
    )
    add(f"parquet: {name}", "read", f"parquet:{{parquet_{name}}}", "all", codes=codes)
for name in ("long", "ragged", "latin"):
    add(f"names: {name}", "read", "csv:{csv_climbs}#names={names_" + name + "}", "all")
for name in JSON:
    words = f"--config_json={{json_{name}}}"
    add(f"train: config_json {name}", "main", words, TRAIN.split()[-1])
    add(f"plan: config_json {name}", "plan", words, "--fast")
    add(f"sweep: config_json {name}", "sweep", words, "--grid=seed=0,1", "--dry_run")
for name in ("long", "nul", "zero", "fifo", "loop", "proc", "empty"):
    add(f"train: config_json at {name}", "main", f"--config_json={PATHS[name]}")
add("train: config_json of Python", "main", "--config_json={binary}")
add("train: config_json without a file", "main", "--config_json")
for form in ("npy", "safetensors", "pth", "index_json"):
    add(f"load: a FIFO.{form}", "load", f"{{fifo_{form}}}")
for form in ("npy", "safetensors"):
    add(f"neighbours: a FIFO.{form}", "neighbours", "{jpeg}", f"{{fifo_{form}}}")
add("neighbours: a query that is a FIFO", "neighbours", "{fifo_npy}", "{google}")
add("read: a FIFO of CSV", "read", "csv:{fifo_csv}", "all")
add("read: a FIFO of predictions", "read", "predicted:{fifo_csv},confidence=0.3")
add("read: no predictions", "read", "predicted:{parquet_deep}")
for options in (
    "most=1e400",
    "confidence=nan",
    "balance=-1",
    "labels=",
    "most=7,most=8",
):
    name = f"read: predictions, {options}"
    add(name, "read", f"predicted:{{csv_climbs}},{options}", "train")
add("read: names in a FIFO", "read", "csv:{csv_climbs}#names={fifo_csv}", "all")
add("read: a FIFO for a shard", "read", "toy", "train", "{toys_fifo}")
name = "toy#image=image,label=label/x"
add("read: features of a class to import", "read", name, "train", "{toys_class}")
for key, default in validation.flatten(packaged.defaults()).items():
    if type(default) in (int, float):
        for value in ("-7", "nan", "inf", "1" + "0" * 30, "1e300", "(1,)"):
            name = f"key: {key}={value[:9]}"
            codes = EITHER if name == "key: model.head_bias=-7" else (2,)
            words = f"--config.{key}={value}"
            add(name, "assemble", *TRAIN.split(), words, codes=codes)
