"""The parts of `gpu.py`: what is measured, each in a process of its own."""

import argparse
import collections
import contextlib
import functools
import glob
import gzip
import importlib.metadata
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

TERA, GIB = 10**12, 2**30
# What a large product of matrices reached on an H200; the data sheet says 989.
PRACTICAL_PEAK = 790 * TERA
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "torch", "timm")
CLASSES = 1000


def _seconds(call: Callable[[], Any], times: int = 20, warm: int = 5) -> list[float]:
    """How long each call took, after some that are not counted."""
    for _ in range(warm):
        call()
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return seconds


def _in_a_row(call: Callable[[], Any], times: int = 20) -> float:
    """Seconds of a call among many that wait for nothing in between."""
    import jax

    for _ in range(5):
        jax.block_until_ready(call())
    start = time.perf_counter()
    for _ in range(times):
        result = call()
    jax.block_until_ready(result)
    return (time.perf_counter() - start) / times


def _summary(seconds: list[float], flops: float, batch: int) -> dict[str, Any]:
    import jax

    from vit_jax.parallel import hardware

    median = statistics.median(seconds)
    chip = hardware.find_chip(jax.devices()[0].device_kind)
    return {
        "milliseconds": round(1e3 * median, 3),
        "spread": round((max(seconds) - min(seconds)) / median, 3),
        "images_per_second": round(batch / median, 1),
        "mfu_of_790": round(flops / median / PRACTICAL_PEAK, 4),
        "mfu_of_data_sheet": round(flops / median / chip.peak_flops, 4)
        if chip
        else None,
    }


def card(options: argparse.Namespace) -> dict[str, Any]:
    """The card, versions, and its two ceilings: bytes copied, matrices multiplied."""
    import jax
    import jax.numpy as jnp

    found: dict[str, Any] = {"device": jax.devices()[0].device_kind}
    with contextlib.suppress(OSError):
        found["driver"] = subprocess.run(
            ["nvidia-smi", "--query-gpu=driver_version,clocks.sm", "--format=csv"],
            capture_output=True,
            text=True,
        ).stdout.split("\n")[-2:]
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    side = 256 if options.tiny else 8192
    rows = 2**16 if options.tiny else 2**30
    x = jax.random.normal(jax.random.key(0), (rows,), jnp.bfloat16)
    copy = jax.jit(lambda x: -x)
    seconds = _in_a_row(lambda: copy(x))
    found["copy_tb_per_second"] = round(2 * x.nbytes / seconds / TERA, 3)
    a, b = (
        jax.random.normal(jax.random.key(i), (side, side), jnp.bfloat16) for i in (1, 2)
    )
    product = jax.jit(lambda a, b: a @ b)
    seconds = _in_a_row(lambda: product(a, b))
    return found | {"product_tflops": round(2 * side**3 / seconds / TERA, 1)}


def _recipe(options: argparse.Namespace, model: str, batch: int, **keys: Any) -> Any:
    """The paper's pre-training of a model, on the photographs that are at hand."""
    from configs import base, pretrain

    config = pretrain.recipe(model, "i1k")
    config.batch_size = 4 if options.tiny else batch
    config.data.dataset = "imagenet_samples"
    config.data.data_dir = options.data_dir
    config.total = "100 steps"
    config.optimizer.warmup = "10%"
    config.model.dropout = 0.0
    config.model.remat = "none"
    config.model.update({"attention": "dot_product"} | keys)
    base.set_evals(config)
    if options.tiny:
        config.model.depth, config.model.width, config.model.mlp_width = 2, 64, 128
        config.model.heads = 2
    return config


def _experiment(config: Any) -> Any:
    import logging

    from vit_jax import experiment

    logging.basicConfig(level=logging.INFO)
    return experiment.assemble(config, experiment.make_mesh(config))


def _batch(exp: Any, size: int) -> dict[str, Any]:
    """Random pixels and classes, on the device."""
    import jax
    import numpy as np

    rng = np.random.default_rng(0)
    image = rng.integers(256, size=exp.batch["image"].shape, dtype=np.uint8)
    label = rng.integers(CLASSES, size=size).astype(exp.batch["label"].dtype)
    return jax.tree.map(
        lambda x, leaf: jax.device_put(x, leaf.sharding),
        {"image": image, "label": label},
        exp.batch,
    )


def _train_flops(exp: Any) -> float:
    from vit_jax import models

    return 6 * models.forward_macs(exp.architecture)


def _compiled(config: Any) -> tuple[Any, Any, Any, dict[str, Any]]:
    """The run, its compiled step and first state, and how long each took."""
    import jax

    found: dict[str, Any] = {}
    start = time.perf_counter()
    exp = _experiment(config)
    found["assemble_s"] = time.perf_counter() - start
    start = time.perf_counter()
    compiled = exp.train_step.lower(*exp.arguments).compile()
    found["compile_s"] = time.perf_counter() - start
    start = time.perf_counter()
    state = jax.block_until_ready(exp.init())
    found["init_s"] = time.perf_counter() - start
    return exp, compiled, state, {k: round(v, 2) for k, v in found.items()}


def _memory(exp: Any, compiled: Any) -> dict[str, Any]:
    """GiB: what the allocator saw, what the compiler said and what `choosing` said."""
    import jax

    from vit_jax.parallel import choosing, memory

    found = memory.of_compiled(compiled)
    stats = jax.local_devices()[0].memory_stats() or {}
    figures = {
        "measured": stats.get("peak_bytes_in_use"),
        "compiler": found and found.peak,
        "planned": choosing.choose(
            *(exp.layout.name, exp.architecture.remat),
            architecture=exp.architecture,
            state=exp.state,
            mesh=exp.mesh,
            examples=exp.batch_size // exp.microbatches,
        ).peak_bytes,
    }
    return {f"{k}_gib": round(v / GIB, 3) for k, v in figures.items() if v}


def step(
    options: argparse.Namespace, model: str, batch: int, **keys: Any
) -> dict[str, Any]:
    """Whole steps of training with Adam: time, share of the peak, memory."""
    import jax

    exp, compiled, state, found = _compiled(_recipe(options, model, batch, **keys))
    given = _batch(exp, exp.batch_size)

    def one() -> None:
        nonlocal state
        state, metrics = compiled(state, given)
        jax.block_until_ready((state, metrics))

    seconds = _seconds(one)
    start = time.perf_counter()
    for _ in range(20):
        state, _ = compiled(state, given)
    jax.block_until_ready(state)
    found["milliseconds_in_a_row"] = round(50 * (time.perf_counter() - start), 3)
    flops = _train_flops(exp) * exp.batch_size
    return found | _summary(seconds, flops, exp.batch_size) | _memory(exp, compiled)


def parity(options: argparse.Namespace, pixels: int) -> dict[str, Any]:
    """Gradients by both back ends in bfloat16 against float32 einsum.

    Relative distances ||g - g32|| / ||g32|| over all parameters, and whether cuDNN's
    are the same to the bit when computed again.
    """
    import jax
    import jax.numpy as jnp
    import numpy as np
    from flax import nnx

    from vit_jax import models

    small = {"width": 64, "mlp_width": 128, "heads": 2} if options.tiny else {}
    labels = jnp.arange(8) * 101 % CLASSES

    def architecture(pixels: int, attention: str, dtype: str) -> Any:
        return models.architecture(
            *("B/16",),
            num_classes=CLASSES,
            image_size=pixels,
            depth=1,
            attention=attention,
            compute_dtype=dtype,
            **small,
        )

    def gradients(arch: Any, params: Any, times: int = 1) -> list[Any]:
        graphdef, _ = models.abstract(arch)
        images = jax.random.normal(jax.random.key(1), (8, *arch.image_size, 3))

        @jax.jit
        def run(params):
            def loss(params):
                logits = models.merge(graphdef, params)(images)
                scores = jax.nn.log_softmax(logits)
                return -jnp.mean(jnp.take_along_axis(scores, labels[:, None], 1))

            leaves = jax.tree.leaves(jax.grad(loss)(params))
            return jnp.concatenate([leaf.ravel() for leaf in leaves])

        with jax.default_matmul_precision("highest"):
            return [np.asarray(run(params)) for _ in range(times)]

    pixels = 16 * (pixels // 112) if options.tiny else pixels
    reference = architecture(pixels, "einsum", "float32")
    params = jax.jit(
        lambda: models.split(models.create(reference, rngs=nnx.Rngs(0)))[1]
    )()
    # A head of zeros would leave the rest without gradients.
    head = params["head"]
    head["kernel"] = 0.05 * jax.random.normal(jax.random.key(2), head["kernel"].shape)
    [exact] = gradients(reference, params)
    size = float(np.linalg.norm(exact))
    [einsum] = gradients(architecture(pixels, "einsum", "bfloat16"), params)
    kernel, again = gradients(
        architecture(pixels, "dot_product", "bfloat16"), params, times=2
    )
    return {
        "tokens": reference.tokens,
        "einsum": round(float(np.linalg.norm(einsum - exact)) / size, 5),
        "dot_product": round(float(np.linalg.norm(kernel - exact)) / size, 5),
        "same_again": bool(np.array_equal(kernel, again)),
    }


def _fill_free_memory() -> None:
    """Leaves NaN in what the allocator hands out next, where it says what it has."""
    import jax
    import jax.numpy as jnp

    device, held = jax.local_devices()[0], []

    def free() -> int:
        stats = device.memory_stats() or {}
        return stats.get("bytes_limit", 0) - stats.get("bytes_in_use", 0)

    for size in (2**28, 2**24, 2**21):
        while free() > 4 * size:
            held.append(jnp.full(size // 4, jnp.nan))
    for array in held:
        array.block_until_ready().delete()


def attention(options: argparse.Namespace) -> dict[str, Any]:
    """Gradients of cuDNN's attention alone, against float32, by tokens.

    Before each call the free memory is full of NaN: a kernel that reads what is not its
    own shows it. "bare" is a call without lengths, as `jax.nn` makes it; "told" is
    ours, for any number of tokens. For each: values that were not finite in any of four
    calls, and the worst relative distances of the gradients of queries, keys, values.
    """
    import jax
    import jax.numpy as jnp

    from vit_jax.models import backends

    plain = functools.partial(jax.nn.dot_product_attention, scale=1.0)
    kinds = {
        "bare": plain
        if options.tiny
        else functools.partial(plain, implementation="cudnn"),
        "told": lambda q, k, v: (
            plain(q, k, v)
            if options.tiny
            else backends._cudnn(q, k, v, tokens=q.shape[1])
        ),
    }
    found: dict[str, Any] = {}
    images = 4 if options.tiny else 512
    for tokens in (64, 66, 128, 196, 197, 256):
        shape = (images, tokens, 6, 64)
        given = [jax.random.normal(jax.random.key(i), shape) for i in range(4)]

        @functools.partial(jax.jit, static_argnums=0)
        def gradients(call: Any, q: Any, k: Any, v: Any, g: Any) -> Any:
            return jax.vjp(call, q / 8, k, v)[1](g)

        with jax.default_matmul_precision("highest"):
            exact = gradients(plain, *given)
        half = [x.astype(jnp.bfloat16) for x in given]
        for kind, call in kinds.items():
            if kind == "bare" and tokens % 2:
                continue  # which JAX refuses
            wrong, worst = 0, [0.0] * 3
            for _ in range(4):
                _fill_free_memory()
                for i, (one, other) in enumerate(zip(gradients(call, *half), exact)):
                    wrong += int((~jnp.isfinite(one)).sum())
                    error = jnp.linalg.norm(one.astype(jnp.float32) - other)
                    error = float(error / jnp.linalg.norm(other))
                    worst[i] = max(worst[i], round(error, 5))
            found[f"{tokens} {kind}"] = {"not_finite": wrong, "distances": worst}
    return found


def timm(options: argparse.Namespace, model: str, batch: int) -> dict[str, Any]:
    """The same steps in timm: torch.compile, bfloat16 autocast, fused AdamW."""
    import timm as package
    import torch

    from vit_jax import models

    arch = models.architecture(model, num_classes=CLASSES, image_size=224)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    batch = 4 if options.tiny else batch
    torch.manual_seed(0)
    torch.set_float32_matmul_precision("high")
    net = package.models.vision_transformer.VisionTransformer(
        img_size=224,
        patch_size=arch.patch[0],
        embed_dim=64 if options.tiny else arch.width,
        depth=2 if options.tiny else arch.depth,
        num_heads=2 if options.tiny else arch.heads,
        mlp_ratio=arch.mlp_width / arch.width,
        num_classes=CLASSES,
        act_layer="gelu_tanh",
    ).to(device)
    optimizer = torch.optim.AdamW(net.parameters(), 1e-3, fused=device == "cuda")
    call = net if options.tiny else torch.compile(net)
    images = torch.randint(0, 256, (batch, 3, 224, 224), dtype=torch.uint8).to(device)
    labels = torch.randint(0, CLASSES, (batch,)).to(device)

    def one() -> None:
        optimizer.zero_grad(set_to_none=True)
        x = images.float().sub_(127.5).div_(127.5)
        with torch.autocast(device, torch.bfloat16):
            logits = call(x)
            loss = torch.nn.functional.cross_entropy(logits.float(), labels)
        loss.backward()
        optimizer.step()

    def waited() -> None:
        one()
        if device == "cuda":
            torch.cuda.synchronize()

    start = time.perf_counter()
    waited()
    found = {"compile_s": round(time.perf_counter() - start, 2)}
    seconds = _seconds(waited)
    start = time.perf_counter()
    for _ in range(20):
        one()
    if device == "cuda":
        torch.cuda.synchronize()
        peak = torch.cuda.max_memory_allocated()
        found["measured_gib"] = round(peak / GIB, 3)
    found["milliseconds_in_a_row"] = round(50 * (time.perf_counter() - start), 3)
    return found | _summary(seconds, 6 * models.forward_macs(arch) * batch, batch)


def loader(options: argparse.Namespace) -> dict[str, Any]:
    """Images/s of the input pipeline alone, from JPEG files, by threads."""
    from vit_jax.data import catalog, transforms
    from vit_jax.data import loader as loader_lib

    crop = transforms.make(
        "train",
        "inception_crop",
        image_size=224,
        area=(0.05, 1.0),
        aspect=(3 / 4, 4 / 3),
    )
    batch, found = 16 if options.tiny else 256, {}
    for threads in (1, 2) if options.tiny else (1, 2, 4, 8, 16):
        source = catalog.open_source(
            "imagenet_samples", "train", data_dir=options.data_dir
        )
        batches = loader_lib.train_loader(
            source, crop, batch_size=batch, seed=0, threads=threads
        )
        drawn, count = batches.iterate(0), 1 + threads
        for _ in range(2):
            next(drawn)
        start = time.perf_counter()
        for _ in range(count):
            next(drawn)
        rate = count * batch / (time.perf_counter() - start)
        found[f"threads_{threads}"] = round(rate, 1)
        batches.close()
    return found


def fed(options: argparse.Namespace) -> dict[str, Any]:
    """B/16 trained from JPEG files: what its log says of rate and input wait."""
    from vit_jax import experiment, train

    config = _recipe(options, "B/16", 256)
    config.data.cache = "none"
    config.total = "6 steps" if options.tiny else "120 steps"
    config.log_every = "2 steps" if options.tiny else "20 steps"
    config.save_every = ""
    with tempfile.TemporaryDirectory() as workdir:
        start = time.perf_counter()
        train.run(config, workdir, experiment.make_mesh(config))
        seconds = time.perf_counter() - start
        lines = [json.loads(x) for x in open(Path(workdir) / "metrics.jsonl")]
    rows = [line for line in lines if "images_per_second" in line]
    keys = ("images_per_second", "input_wait", "mfu", "step_seconds")
    last = {key: rows[-1][key] for key in keys if key in rows[-1]}
    return {"whole_run_s": round(seconds, 1), "lines": len(rows)} | last


def profile(options: argparse.Namespace) -> dict[str, Any]:
    """The kernels of five steps of B/16 at 256 images, by the time they take."""
    import jax

    exp, compiled, state, _ = _compiled(_recipe(options, "B/16", 256))
    given = _batch(exp, exp.batch_size)
    for _ in range(5):
        state, _ = compiled(state, given)
    jax.block_until_ready(state)
    folder = options.out / "trace"
    with jax.profiler.trace(str(folder)):
        for _ in range(5):
            state, _ = compiled(state, given)
        jax.block_until_ready(state)
    (options.out / "step.hlo.txt.gz").write_bytes(
        gzip.compress(compiled.as_text().encode())
    )
    total: collections.Counter[str] = collections.Counter()
    times: collections.Counter[str] = collections.Counter()
    for name, microseconds in _kernels(folder):
        total[name] += microseconds
        times[name] += 1
    rows = [
        {
            "kernel": name[:120],
            "ms_a_step": round(time_ / 5e3, 4),
            "times": times[name] / 5,
        }
        for name, time_ in total.most_common(80)
    ]
    (options.out / "kernels.json").write_text(json.dumps(rows, indent=0))
    return {"kernels_ms_a_step": round(sum(total.values()) / 5e3, 3), "top": rows[:12]}


def _kernels(folder: Path) -> Iterator[tuple[str, float]]:
    """(name, microseconds) of what ran on the GPU's streams."""
    [path] = glob.glob(f"{folder}/**/*.trace.json.gz", recursive=True)
    events = json.loads(gzip.open(path).read())["traceEvents"]
    devices = {
        e["pid"]
        for e in events
        if e.get("name") == "process_name" and "/device:GPU" in e["args"]["name"]
    }
    threads = {
        (e["pid"], e["tid"])
        for e in events
        if e.get("name") == "thread_name" and "Stream" in str(e["args"]["name"])
    }
    for event in events:
        if event.get("ph") == "X" and event["pid"] in devices:
            if (event["pid"], event["tid"]) in threads:
                yield event["name"], event["dur"]


def cifar10(options: argparse.Namespace) -> dict[str, Any]:
    """`configs/cifar10.py:gpu` from the command line: seconds and accuracy."""
    with tempfile.TemporaryDirectory() as workdir:
        command = [sys.executable, "-m", "vit_jax.main", f"--workdir={workdir}"]
        command += ["--config=configs/cifar10.py:gpu"]
        command += [f"--config.data.data_dir={options.data_dir}"]
        if options.tiny:
            command += ["--config.total=4 steps", "--config.batch_size=8"]
        start = time.perf_counter()
        done = subprocess.run(command, cwd=Path(__file__).parents[1])
        seconds = time.perf_counter() - start
        lines = [json.loads(x) for x in open(Path(workdir) / "metrics.jsonl")]
    return {
        "exit": done.returncode,
        "whole_run_s": round(seconds, 1),
        "last": lines[-1],
    }
