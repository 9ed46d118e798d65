"""The files and folders that hostile rows name, and the functions that read them."""

import io
import json
import os
import shutil
import sys
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import commands
import jax
import numpy as np
from test_data_example import bytes_feature, encode, packed_ints
from test_data_records import write_tfrecord

import vit_jax
from configs import quickstart
from vit_jax import cli, experiment, models
from vit_jax.checkpoints import checkpoint
from vit_jax.data import catalog, loader, preprocessing, transforms
from vit_jax.weights import files, own
from vit_jax.weights.formats import safetensors
from vit_jax.weights.source import Tensors

CLASSES = 7
OPTIONS = {"width": 32, "depth": 1, "heads": 4, "mlp_width": 64}
DEEP = "[" * 100_000 + "]" * 100_000
# What stands where an object should, as the text of a file of JSON.
JSON = {
    "list": b"[1, 2]",
    "number": b"7",
    "null": b"null",
    "text": b'"config"',
    "deep": DEEP.encode(),
    "deep_inside": b'{"model": ' + DEEP.encode() + b"}",
    "latin": b'{"a": "\xe9\xff"}',
    "empty": b"",
    "truncated": b'{"model": {"name": "B/1',
    "twice": b'{"seed": 1, "seed": 2}',
    "nan": b'{"seed": NaN}',
    "digits": b'{"seed": ' + b"9" * 6000 + b"}",
    "nul": b"\0" * 64,
}
# What stands where a word, a number or an object should.
ODD: dict[str, Any] = {
    "list": [[]],
    "object": {"a": {}},
    "word": "\x1b]0;x\x07" + "x" * 5000,
    "minus": -1,
    "huge": 10**400,
    "nan": float("nan"),
    "null": None,
    "true": True,
}


def weights() -> files.Weights:
    """A ViT of seven classes, of zeros."""
    arch = models.architecture("Ti/4", num_classes=CLASSES, image_size=16, **OPTIONS)
    params = jax.tree.map(
        lambda leaf: np.zeros(leaf.shape, np.float32), models.abstract(arch)[1]
    )
    wanted = preprocessing.Preprocessing(image_size=(16, 16))
    names = tuple(f"class {i}" for i in range(CLASSES))
    return files.Weights(arch, params, wanted, "google", names)


def make(root: Path) -> dict[str, str]:
    """Writes them, and returns where each is by the name that rows have for it."""
    place = {"root": root}
    for name in ("cwd", "tmp", "empty", "weights", "bad"):
        place[name] = root / name
        place[name].mkdir()
    os.environ["VIT_JAX_CACHE"] = str(root.parent / f"{root.name}.cache")
    _strange(root, place)
    _descriptions(place)
    _workdirs(root, place)
    _recipes(root, place)
    _data(root, place)
    return {name: str(path) for name, path in place.items()}


def unmake(place: Mapping[str, str]) -> None:
    """Makes what may not be entered removable, and takes the cache away."""
    os.chmod(place["closed"], 0o700)
    shutil.rmtree(os.environ["VIT_JAX_CACHE"], ignore_errors=True)


def _strange(root: Path, place: dict[str, Path]) -> None:
    """What is no file, or none that can be read."""
    place["fifo"] = root / "fifo.npz"
    os.mkfifo(place["fifo"])
    for form in ("npy", "safetensors", "pth", "csv", "jpg", "index.json"):
        key = f"fifo_{form.replace('.', '_')}"
        place[key] = root / f"a_fifo.{form}"
        os.mkfifo(place[key])
    place["loop"] = root / "loop"
    place["loop"].symlink_to(place["loop"])
    place["circle"] = root / "circle"
    place["circle"].mkdir()
    (place["circle"] / "a").symlink_to(place["circle"])
    place["closed"] = root / "closed"
    place["closed"].mkdir()
    (place["closed"] / "x.jpg").write_bytes(b"x")
    os.chmod(place["closed"], 0)
    place["text"] = root / "text.txt"
    place["text"].write_text("hello\n")
    place["binary"] = root / "binary.py"
    place["binary"].write_bytes(b"a\0b\xff")
    place["zero"], place["proc"] = Path("/dev/zero"), Path("/proc")
    place["escape"] = root / "bad\x1b[31m\nname"
    place["escape"].mkdir()
    place["list_fifo"] = root / "list.txt"
    place["list_fifo"].write_bytes(b"\xff\xfe\0.jpg\n/dev/zero\n../../etc/passwd\n")
    for form in ("npz", "py", "safetensors", "csv", "tar", "parquet", "pth", "jpg"):
        place[f"folder_{form}"] = root / f"folder.{form}"
        place[f"folder_{form}"].mkdir()


def _write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else _json(content))


def _json(content: Any) -> bytes:
    return json.dumps(content).encode()


def _descriptions(place: dict[str, Path]) -> None:
    """A good checkpoint in each form that says something in JSON."""
    model = weights()
    place["google"] = place["weights"] / "google.npz"
    files.write(model, place["google"], "google")
    for dialect in ("timm", "hf_vit", "hf_dinov2_with_registers"):
        place[dialect] = place["weights"] / dialect
        arch = model.architecture
        if "dinov2" in dialect:
            arch = arch.replace(layer_scale=0.1, registers=1, pre_logits=False)
            arch = arch.replace(pool="token_mean", mlp_width=128, gelu="erf")
        else:
            arch = arch.replace(pre_logits=False, gelu="erf")
        params = jax.tree.map(
            lambda leaf: np.zeros(leaf.shape, np.float32), models.abstract(arch)[1]
        )
        one = files.Weights(arch, params, model.preprocessing, dialect)
        files.write(one, place[dialect], dialect)
    place["ours"] = place["weights"] / "ours"
    checkpoint.write_params(place["ours"], model.params, own.description(model))
    place["own"] = place["weights"] / "own"
    own.write(model, place["own"])
    place["adapter"] = place["weights"] / "adapter"
    place["adapter"].mkdir()
    _write(
        place["adapter"] / "adapter_config.json",
        {"peft_type": "LORA", "r": 2, "lora_alpha": 4.0, "use_rslora": False},
    )
    start = "base_model.model.vit.layers.0.attention.q_proj.lora_"
    tensors = {
        f"{start}A.weight": np.zeros((2, 32), np.float32),
        f"{start}B.weight": np.zeros((32, 2), np.float32),
    }
    safetensors.write(
        Tensors.of(tensors),
        place["adapter"] / "adapter_model.safetensors",
        {"label_names": '["a"]', "pre_logits": "true"},
    )
    place["sharded"] = place["weights"] / "sharded"
    shutil.copytree(place["hf_vit"], place["sharded"])
    shard = place["sharded"] / "model-1.safetensors"
    (place["sharded"] / "model.safetensors").rename(shard)
    with safetensors.open(shard) as opened:
        names = dict.fromkeys(opened.names, shard.name)
    _write(
        place["sharded"] / "model.safetensors.index.json",
        {"metadata": {"total_size": 1}, "weight_map": names},
    )


def _workdirs(root: Path, place: dict[str, Path]) -> None:
    """Workdirs whose config.json or metrics.jsonl are something else."""
    config = quickstart.get_config()
    config.model.depth, config.model.width, config.total = 1, 32, "1"
    good = _json(config.to_dict())
    place["config_json"] = root / "config.json"
    place["config_json"].write_bytes(good)
    for name, text in JSON.items():
        place[f"config_{name}"] = root / "workdirs" / f"config_{name}"
        _write(place[f"config_{name}"] / "config.json", text)
        place[f"json_{name}"] = root / "workdirs" / f"{name}.json"
        _write(place[f"json_{name}"], text)
        place[f"metrics_{name}"] = root / "workdirs" / f"metrics_{name}"
        shutil.copytree(place["ours"], place[f"metrics_{name}"] / "checkpoints" / "1")
        _write(place[f"metrics_{name}"] / "metrics.jsonl", text)
        place[f"sweep_{name}"] = root / "workdirs" / f"sweep_{name}"
        _write(place[f"sweep_{name}"] / "sweep.json", text)
        _write(place[f"sweep_{name}"] / "study.json", text)
    for name in ("config.json", "metrics.jsonl", "checkpoints", "sweep.json"):
        key = "folder_" + name.partition(".")[0]
        place[key] = root / "workdirs" / key
        (place[key] / name).mkdir(parents=True)
    place["file_checkpoints"] = root / "workdirs" / "file_checkpoints"
    _write(place["file_checkpoints"] / "checkpoints", b"x")
    place["odd_steps"] = root / "workdirs" / "odd_steps"
    for name in ("\u00b2", "-1", "1e3", "9" * 200, "\u0661", "1.orbax-checkpoint-tmp"):
        shutil.copytree(place["ours"], place["odd_steps"] / "checkpoints" / name)


def _recipes(root: Path, place: dict[str, Path]) -> None:
    start = (
        "from configs import base\n\n\ndef get_config():\n    c = base.get_config()\n"
    )
    lines = {
        "loops": "a = []; a.append(a); c.data.mean = a",
        "exits": "import sys; sys.exit(3)",
        "deep": "c.data.mean = " + "(" * 80 + ")" * 80,
        "huge": "c.batch_size = 10**400",
        "object": "c.batch_size = object()",
        "numpy": "import numpy; c.batch_size = numpy.zeros(9)",
        "recurses": "return get_config()",
        "escape": "raise ValueError('\\x1b[31m' + 'x' * 9999 + '\\n' * 99)",
        "nothing": "raise Exception",
        "long": "c.model.name = 'x' * 100000",
    }
    for name, line in lines.items():
        place[f"recipe_{name}"] = root / "recipes" / f"{name}.py"
        _write(place[f"recipe_{name}"], f"{start}    {line}\n    return c\n".encode())


def _jpeg() -> bytes:
    from PIL import Image

    stream = io.BytesIO()
    Image.new("RGB", (24, 24), (9, 99, 200)).save(stream, "JPEG")
    return stream.getvalue()


TOY = {
    "dataset_info": {
        "name": "toy",
        "fileFormat": "tfrecord",
        "splits": [{"name": "train", "shardLengths": ["2"], "numBytes": "0"}],
        "supervisedKeys": {
            "tuple": {"items": [{"featureKey": "image"}, {"featureKey": "label"}]}
        },
    },
    "features": {
        "featuresDict": {
            "features": {
                "image": {
                    "image": {
                        "dtype": "uint8",
                        "shape": {"dimensions": ["-1", "-1", "3"]},
                    }
                },
                "label": {"classLabel": {"numClasses": "3"}},
            }
        }
    },
}


def write_toy(folder: Path, documents: Mapping[str, Any]) -> None:
    """Writes a dataset as TFDS does, of two pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    example = {"image": bytes_feature(_jpeg()), "label": packed_ints(1)}
    write_tfrecord(folder / "toy-train.tfrecord-00000-of-00001", [encode(example)] * 2)
    for name, content in documents.items():
        _write(folder / f"{name}.json", content)


def _data(root: Path, place: dict[str, Path]) -> None:
    """Datasets of every form."""
    jpeg = _jpeg()
    place["jpeg"] = root / "picture.jpg"
    place["jpeg"].write_bytes(jpeg)
    place["jpeg_utf8"] = root / os.fsdecode(b"p\xff\xfe.jpg")
    place["jpeg_utf8"].write_bytes(jpeg[:40])
    place["pictures"] = root / "pictures"
    for name in ("a/1.jpg", "b/1.jpg"):
        _write(place["pictures"] / name, jpeg)
    place["toys"] = root / "toys"
    write_toy(place["toys"] / "toy" / "1.0.0", TOY)
    place["toys_fifo"] = root / "more" / "toys_fifo"
    write_toy(place["toys_fifo"] / "toy" / "1.0.0", TOY)
    shard = place["toys_fifo"] / "toy/1.0.0/toy-train.tfrecord-00000-of-00001"
    shard.unlink()
    os.mkfifo(shard)
    place["toys_class"] = root / "more" / "toys_class"
    features = json.loads(json.dumps(TOY["features"]))
    features["pythonClassName"] = "executed.Features"
    features["featuresDict"]["features"]["image"]["pythonClassName"] = "executed.X"
    classes = TOY | {"features": features}
    write_toy(place["toys_class"] / "toy" / "1.0.0", classes)
    _write(place["cwd"] / "executed.py", b"import os\nos.mkdir('executed')\n")
    for name, text in JSON.items():
        for document in TOY:
            key = f"toys_{document}_{name}"
            place[key] = root / "more" / key
            write_toy(place[key] / "toy" / "1.0.0", TOY | {document: text})
    _tars(root, place, jpeg)
    _tables(root, place, jpeg)


def _tars(root: Path, place: dict[str, Path], jpeg: bytes) -> None:
    def tar(name: str, members: list[tuple[str, bytes]], **info: Any) -> None:
        path = place[f"tar_{name}"] = root / "tars" / f"{name}.tar"
        path.parent.mkdir(exist_ok=True)
        with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as file:
            for member, data in members:
                told = tarfile.TarInfo(member)
                told.size = len(data)
                for key, value in info.items():
                    setattr(told, key, value)
                file.addfile(told, io.BytesIO(data))

    good = [("a.jpg", jpeg), ("a.cls", b"1")]
    tar("climbs", [("../../executed.jpg", jpeg), ("../../executed.cls", b"1")])
    tar("absolute", [("/tmp/executed.jpg", jpeg), ("/tmp/executed.cls", b"1")])
    tar("minus", [("a.jpg", jpeg), ("a.cls", b"--5")])
    tar("digits", [("a.jpg", jpeg), ("a.cls", b"9" * 5000)])
    tar("wide", [("a.jpg", jpeg), ("a.cls", b"9" * 30)])
    tar("roman", [("a.jpg", jpeg), ("a.cls", "\u0661\u00b2".encode())])
    tar("nul", [("a.jpg", jpeg), ("a.cls", b"\0\x1b[31m")])
    tar("long", [("d/" * 2000 + "a.jpg", jpeg), ("d/" * 2000 + "a.cls", b"1")])
    tar("deep", [("a.jpg", jpeg), ("a.json", DEEP.encode())])
    tar("object", [("a.jpg", jpeg), ("a.json", b'{"label": {"a": 1}}')])
    tar("lists", [("a.jpg", jpeg), ("a.json", b'{"label": [[[1]]]}')])
    tar("bignum", [("a.jpg", jpeg), ("a.json", b'{"label": 1' + b"0" * 30 + b"}")])
    tar("links", good, type=tarfile.SYMTYPE, linkname="/etc/passwd")
    tar("fifos", good, type=tarfile.FIFOTYPE)
    tar("pax", good, pax_headers={"size": "-5"})
    tar("pax_huge", good, pax_headers={"size": "9" * 5000})
    tar("pax_word", good, pax_headers={"size": "abc"})
    place["tar_size"] = root / "tars" / "size.tar"
    told = tarfile.TarInfo("a.jpg")
    told.size = 1 << 60
    place["tar_size"].write_bytes(told.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    place["tar_text"] = root / "tars" / "text.tar"
    place["tar_text"].write_bytes(b"hello" * 300)
    place["tar_empty"] = root / "tars" / "empty.tar"
    place["tar_empty"].write_bytes(b"")
    place["tar_fifo"] = root / "tars" / "fifo.tar"
    os.mkfifo(place["tar_fifo"])


def _tables(root: Path, place: dict[str, Path], jpeg: bytes) -> None:
    """CSV files and Parquet."""
    texts = {
        "climbs": b"file,label\n../../../../etc/passwd,1\n",
        "absolute": b"file,label\n/dev/zero,1\n",
        "nul": b"file,label\na\0b.jpg,1\n",
        "latin": b"file,label\n\xff\xfe.jpg,1\n",
        "cell": b"file,label\n" + b"x" * 200_000 + b",1\n",
        "header": b",,,\n1,2,3,4\n",
        "twice": b"file,file,label\n1.jpg,2.jpg,3\n",
        "ragged": b"file,label\n1.jpg\n1.jpg,2,3,4\n",
        "digits": b"file,label\npicture.jpg," + b"9" * 5000 + b"\n",
        "wide": b"file,label\npicture.jpg," + b"9" * 30 + b"\n",
        "escape": b"file,label\n\x1b]0;x\x07.jpg,1\n",
        "quotes": b'file,label\n"picture.jpg,1\n',
        "empty": b"",
    }
    for name, text in texts.items():
        place[f"csv_{name}"] = root / f"{name}.csv"
        place[f"csv_{name}"].write_bytes(text)
    place["names_long"] = root / "names_long.csv"
    place["names_long"].write_bytes(b"name\n" + b"x" * 200_000 + b"\n")
    place["names_ragged"] = root / "names_ragged.csv"
    place["names_ragged"].write_bytes(b"id,name\n1\n2,b\n")
    place["names_latin"] = root / "names_latin.txt"
    place["names_latin"].write_bytes(b"\xff\xfe\n")
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        return
    tables = {
        "lists": {"image": [[[1]]], "label": [1]},
        "nulls": {"image": pyarrow.array([None], pyarrow.null()), "label": [1]},
        "texts": {"image": ["a"], "label": [1]},
        "struct": {"image": [{"path": "/etc/passwd", "bytes": None}], "label": [1]},
        "wide": {"image": [jpeg], "label": [2**62]},
        "floats": {"image": [jpeg], "label": [1.5]},
        "nan": {"image": [jpeg], "label": [[float("nan")]]},
        "minus": {"image": [jpeg], "label": [-1]},
        "dates": {"image": [jpeg], "label": np.array(["2020-01-01"], "M8[D]")},
        "no_columns": {},
        "no_rows": {
            "image": pyarrow.array([], pyarrow.binary()),
            "label": pyarrow.array([], pyarrow.int64()),
        },
        "none": {"image": [jpeg], "label": pyarrow.array([None], pyarrow.int64())},
        "deep": {"image": [jpeg], "label": [[[[1]]]]},
        "label_struct": {"image": [jpeg], "label": [{"a": 1}]},
        "label_map": {
            "image": [jpeg],
            "label": pyarrow.array(
                [[("a", 1)]], pyarrow.map_(pyarrow.string(), pyarrow.int64())
            ),
        },
        "label_bytes": {"image": [jpeg], "label": [b"\xff"]},
        "escape": {"image": [jpeg], "label\x1b[31m": [1], "x\n" * 20: [2]},
    }
    for name, columns in tables.items():
        place[f"parquet_{name}"] = root / f"{name}.parquet"
        table = pyarrow.table(columns)
        if name == "lists":
            said = {b"huggingface": DEEP.encode()}
            table = table.replace_schema_metadata(said)
        pyarrow.parquet.write_table(table, place[f"parquet_{name}"])
    for name, said in {
        "hf_list": b"[]",
        "hf_info": b'{"info": []}',
        "hf_features": b'{"info": {"features": 3}}',
        "hf_names": b'{"info": {"features": {"label": {"names": 3,'
        b' "_type": "ClassLabel"}, "image": {"_type": ["Image"]}}}}',
        "hf_names2": b'{"info": {"features": {"label": {"names": [[1], {}],'
        b' "_type": "ClassLabel"}, "image": {"_type": "Image"}}}}',
        "hf_deep": b'{"info": ' + DEEP.encode() + b"}",
        "hf_latin": b"\xff\xfe",
    }.items():
        place[f"parquet_{name}"] = root / f"{name}.parquet"
        table = pyarrow.table({"image": [jpeg], "label": [0]})
        table = table.replace_schema_metadata({b"huggingface": said})
        pyarrow.parquet.write_table(table, place[f"parquet_{name}"])
    whole = place["parquet_minus"].read_bytes()
    for name, data in {
        "cut": whole[:-20],
        "middle": whole[: len(whole) // 2] + whole[len(whole) // 2 + 9 :],
        "text": b"PAR1 hello PAR1",
        "size": whole[:-8] + b"\xff\xff\xff\x7fPAR1",
        "empty": b"",
    }.items():
        place[f"parquet_{name}"] = root / f"{name}_.parquet"
        place[f"parquet_{name}"].write_bytes(data)
    place["parquet_fifo"] = root / "fifo.parquet"
    os.mkfifo(place["parquet_fifo"])


def _load(path: str, *words: str) -> None:
    """`vit_jax.load`, with options as `vit_jax convert` takes them."""
    from vit_jax import convert

    vit_jax.load(path, **convert._parse_options(list(words)))


def _read(dataset: str, split: str = "train", data_dir: str = "") -> None:
    """Describes a dataset, opens it, and reads a batch as training does."""
    catalog.describe(dataset, data_dir=data_dir)
    source = catalog.open_source(dataset, split, data_dir=data_dir)
    resized = transforms.make("train", "resize", image_size=8)
    batches = loader.train_loader(source, resized, batch_size=1, seed=0)
    batches.batch(step=0)


def _create(name: str, *words: str) -> None:
    """`vit_jax.create_model`, abstract."""
    from vit_jax import convert

    options: dict[str, Any] = {"num_classes": 3, "image_size": 16}
    models.abstract(
        models.architecture(name, **options | convert._parse_options(list(words)))
    )


def _assemble(*words: str) -> None:
    """What `vit_jax train` does before it opens data: nothing is compiled."""
    argv = ["main", *words]
    before, sys.argv = sys.argv, argv
    try:
        with commands.own_flags("main") as module:
            cli.parse_recipe(argv)
            config = module._CONFIG.value
            experiment.assemble(config, experiment.make_mesh(config))
    finally:
        sys.argv = before


CALLS: dict[str, Callable[..., None]] = {
    "load": _load,
    "read": _read,
    "create": _create,
    "assemble": _assemble,
}
