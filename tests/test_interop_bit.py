"""The layouts of BiT ResNets: names, shapes, values, and who else reads them."""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vit_jax
from vit_jax import convert, errors, models, tree
from vit_jax.weights import files, rules
from vit_jax.weights.dialects import bit
from vit_jax.weights.source import Tensors

CLASSES = 3


def sizes(units=(2, 1), width=32):
    """(stage, unit, inputs, width, projects) of every unit."""
    inputs = width
    for i, count in enumerate(units):
        inner = width * 2**i
        for j in range(count):
            yield i + 1, j + 1, inputs, inner, j == 0
            inputs = 4 * inner


def paper_shapes(units=(2, 1)):
    """What big_vision's `bit_paper` calls its parameters."""
    shapes = {"root_block/conv_root/kernel": (7, 7, 3, 32)}

    def norm(name, channels):
        for leaf in ("scale", "bias"):
            shapes[f"{name}/{leaf}"] = (1, 1, 1, channels)

    last = 32
    for stage, unit, inputs, width, projects in sizes(units):
        name, last = f"block{stage}/unit{unit:02d}", 4 * width
        shapes[f"{name}/conv1/kernel"] = (1, 1, inputs, width)
        shapes[f"{name}/conv2/kernel"] = (3, 3, width, width)
        shapes[f"{name}/conv3/kernel"] = (1, 1, width, last)
        for i, channels in enumerate((inputs, width, width), 1):
            norm(f"{name}/gn{i}", channels)
        if projects:
            shapes[f"{name}/conv_proj/kernel"] = (1, 1, inputs, last)
    norm("norm-pre-head", last)
    return shapes | {"head/kernel": (last, CLASSES), "head/bias": (CLASSES,)}


def dump_shapes(units=(2, 1), *, number=""):
    """What the published TensorFlow dumps call the same; `number`s are in some."""
    conv = f"standardized_conv2d{number}/kernel"
    shapes = {f"resnet/root_block/{conv}": (7, 7, 3, 32)}

    def norm(name, channels):
        for leaf in ("gamma", "beta"):
            shapes[f"{name}/group_norm/{leaf}"] = (channels,)

    last = 32
    for stage, unit, inputs, width, projects in sizes(units):
        name, last = f"resnet/block{stage}/unit{unit:02d}", 4 * width
        shapes[f"{name}/a/{conv}"] = (1, 1, inputs, width)
        shapes[f"{name}/b/{conv}"] = (3, 3, width, width)
        shapes[f"{name}/c/{conv}"] = (1, 1, width, last)
        for part, channels in zip("abc", (inputs, width, width)):
            norm(f"{name}/{part}", channels)
        if projects:
            shapes[f"{name}/a/proj/{conv}"] = (1, 1, inputs, last)
    norm("resnet", last)
    shapes["resnet/head/conv2d/kernel"] = (1, 1, last, CLASSES)
    return shapes | {"resnet/head/conv2d/bias": (CLASSES,)}


def post_shapes(units=(2, 1)):
    """What big_vision's `bit` calls its parameters."""
    shapes = {"conv_root/kernel": (7, 7, 3, 32)}

    def norm(name, channels):
        for leaf in ("scale", "bias"):
            shapes[f"{name}/{leaf}"] = (channels,)

    norm("gn_root", 32)
    last = 32
    for stage, unit, inputs, width, projects in sizes(units):
        name, last = f"block{stage}/unit{unit}", 4 * width
        shapes[f"{name}/conv1/kernel"] = (1, 1, inputs, width)
        shapes[f"{name}/conv2/kernel"] = (3, 3, width, width)
        shapes[f"{name}/conv3/kernel"] = (1, 1, width, last)
        for i, channels in enumerate((width, width, last), 1):
            norm(f"{name}/gn{i}", channels)
        if projects:
            shapes[f"{name}/conv_proj/kernel"] = (1, 1, inputs, last)
            norm(f"{name}/gn_proj", last)
    return shapes | {"head/kernel": (last, CLASSES), "head/bias": (CLASSES,)}


SHAPES = {"bit_dump": dump_shapes, "bit_paper": paper_shapes, "bit": post_shapes}


def drawn(shapes):
    rng = np.random.default_rng(0)
    return {n: rng.normal(0.3, 1, s).astype(np.float32) for n, s in shapes.items()}


def loaded(dialect, theirs, image_size=(40, 40)):
    entry = bit.DIALECTS[dialect]
    leaves = rules.load(entry.rules, theirs)
    return leaves, bit.infer(leaves.shapes, image_size).replace(**entry.fields)


def applied(arch, leaves, x):
    graphdef, _ = models.abstract(arch)
    params = tree.from_named({n: jnp.asarray(a) for n, a in leaves.items()})
    apply = jax.jit(lambda params, x: models.merge(graphdef, params)(x))
    return np.asarray(apply(params, x))


@pytest.mark.parametrize("dialect", SHAPES)
def test_architecture_and_leaves_follow_from_the_file(dialect):
    leaves, arch = loaded(dialect, drawn(SHAPES[dialect]()))
    assert (arch.units, arch.width, arch.num_classes) == ((2, 1), 0.5, CLASSES)
    assert arch.form == ("post" if dialect == "bit" else "pre")
    assert arch.pool_padding == ("zero" if dialect == "bit_dump" else "lowest")
    wanted = dict(tree.named_leaves(models.abstract(arch)[1]))
    assert leaves.shapes == {name: leaf.shape for name, leaf in wanted.items()}


@pytest.mark.parametrize("dialect", SHAPES)
@pytest.mark.parametrize("units", [(2, 1), (11, 1, 1)])
def test_files_come_back_bit_for_bit(dialect, units):
    theirs = drawn(SHAPES[dialect](units))
    leaves, arch = loaded(dialect, theirs)
    assert arch.units == units
    back = rules.save(bit.DIALECTS[dialect].rules, leaves)
    assert back.shapes == {name: array.shape for name, array in theirs.items()}
    for name, array in theirs.items():
        np.testing.assert_array_equal(back.read(name), array)


@pytest.mark.parametrize(
    "name", ["BiT-R26x1", "BiT-R50x1", "BiT-R152x4", "BiT-R200x3", "BiT-R152x2-post"]
)
def test_names_follow_from_shapes(name):
    arch = models.architecture(name, num_classes=7)
    shapes = {n: a.shape for n, a in tree.named_leaves(models.abstract(arch)[1])}
    assert bit.infer(shapes) == arch
    assert bit.infer(shapes, (160, 128)) == arch.replace(image_size=(160, 128))
    headless = {n: s for n, s in shapes.items() if not n.startswith("head/")}
    assert bit.infer(headless) == arch.replace(num_classes=0)


def test_both_pre_activation_layouts_hold_the_same_model():
    paper = drawn(paper_shapes())
    leaves, arch = loaded("bit_paper", paper)
    dump = rules.save(bit.DIALECTS["bit_dump"].rules, leaves)
    assert dump.shapes == dump_shapes()
    again, other = loaded("bit_dump", dump)
    assert other == arch.replace(pool_padding="zero")
    x = np.random.default_rng(1).uniform(-1, 1, (2, 40, 40, 3)).astype(np.float32)
    expected = applied(arch, leaves, x)
    np.testing.assert_array_equal(applied(arch, again, x), expected)
    assert np.abs(applied(other, again, x) - expected).max() > 1e-3


def test_numbered_convolutions_are_read_and_written_without():
    numbered = drawn(dump_shapes(number="_12"))
    plain = {n.replace("_12", ""): array for n, array in numbered.items()}
    leaves, _ = loaded("bit_dump", numbered)
    back = rules.save(bit.DIALECTS["bit_dump"].rules, leaves)
    assert back.shapes == dump_shapes()
    for name, array in plain.items():
        np.testing.assert_array_equal(back.read(name), array)


def test_old_group_norms_of_the_post_form_are_read():
    theirs = drawn(post_shapes())
    old = {n: a[None, None, None] if "/gn" in n else a for n, a in theirs.items()}
    leaves, _ = loaded("bit", old)
    back = rules.save(bit.DIALECTS["bit"].rules, leaves)
    for name, array in theirs.items():
        np.testing.assert_array_equal(back.read(name), array)


@pytest.mark.parametrize("dialect", SHAPES)
def test_markers_tell_the_layouts_apart(dialect):
    names = SHAPES[dialect]()
    found = [
        other
        for other, entry in bit.DIALECTS.items()
        if any(re.fullmatch(entry.marker, name) for name in names)
    ]
    assert found == [dialect]


@pytest.mark.parametrize("dialect", SHAPES)
def test_files_load_in_one_line_and_are_written_back(tmp_path, dialect):
    theirs = drawn(SHAPES[dialect]())
    prefix = bit.DIALECTS[dialect].prefix
    np.savez(tmp_path / "a.npz", **{prefix + n: a for n, a in theirs.items()})
    model = vit_jax.load(tmp_path / "a.npz", image_size=40)
    assert (model.dialect, model.architecture.image_size) == (dialect, (40, 40))
    leaves, arch = loaded(dialect, theirs)
    x = model.images([np.full((50, 50, 3), 200, np.uint8)])
    np.testing.assert_allclose(model.model(x), applied(arch, leaves, x), rtol=1e-5)
    convert.run(str(tmp_path / "a.npz"), tmp_path / "ours", "vit_jax", verify=True)
    convert.run(str(tmp_path / "ours"), tmp_path / "b.npz", dialect)
    with np.load(tmp_path / "b.npz") as back:
        assert set(back) == {prefix + name for name in theirs}
        for name, array in theirs.items():
            np.testing.assert_array_equal(back[prefix + name], array)
    assert vit_jax.load(tmp_path / "a.npz").architecture.image_size == (224, 224)


@pytest.mark.parametrize(
    ("source", "target", "reason"),
    [
        ("bit_dump", "bit_paper", "pool_padding='zero'"),
        ("bit_paper", "bit_dump", "pool_padding='lowest'"),
        ("bit_paper", "bit", "bit cannot hold this"),
        ("bit", "bit_dump", "bit_dump cannot hold this"),
        ("bit", "google", "bit_dump, bit_paper, bit"),
    ],
)
def test_another_function_is_not_written(tmp_path, source, target, reason):
    np.savez(tmp_path / "a.npz", **drawn(SHAPES[source]()))
    with pytest.raises(errors.UserError, match=reason):
        convert.run(str(tmp_path / "a.npz"), tmp_path / "b.npz", target)
    assert not (tmp_path / "b.npz").exists()


def test_a_tensor_without_a_place_is_an_error():
    theirs = drawn(paper_shapes()) | {"block1/unit01/gn4/scale": np.zeros(3)}
    theirs |= {"block1/unit1/conv1/kernel": np.zeros((1, 1, 1, 1))}
    with pytest.raises(errors.UserError, match="1 of its .* have no place"):
        loaded("bit_paper", theirs)


@pytest.mark.parametrize(
    "shapes, message",
    [
        ({}, "root/conv/kernel"),
        ({"root/conv/kernel": (7, 7, 3)}, "4 axes"),
        ({"root/conv/kernel": (7, 7, 3, 64)}, "stage1/unit1"),
        (
            {"root/conv/kernel": (7, 7, 3, 20), "stage1/unit1/x": ()},
            "multiple of 0.5",
        ),
        (
            {"root/conv/kernel": (7, 7, 3, 64)}
            | {f"stage{i}/unit1/x": () for i in range(11)},
            "1 to 10",
        ),
    ],
)
def test_shapes_of_no_bit_resnet_are_errors(shapes, message):
    with pytest.raises(errors.UserError, match=message):
        bit.infer(shapes)


def test_units_are_counted_not_numbered():
    shapes = {"root/conv/kernel": (7, 7, 3, 64), "stage1/unit99999999/x": ()}
    assert bit.infer(shapes).units == (1,)


def test_a_size_changes_what_images_are_made_not_the_function(tmp_path):
    """At any size the same weights, of their files and of our checkpoints."""
    theirs = drawn(paper_shapes((1,)))
    np.savez(tmp_path / "a.npz", **{f"params/{n}": a for n, a in theirs.items()})
    convert.run(str(tmp_path / "a.npz"), tmp_path / "ours", "vit_jax")
    pictures = [np.full((50, 50, 3), 200, np.uint8)]
    x = jax.random.uniform(jax.random.key(0), (1, 40, 24, 3), minval=-1)
    outputs = []
    for path in (tmp_path / "a.npz", tmp_path / "ours"):
        plain = vit_jax.load(path)
        assert plain.architecture.image_size == (224, 224)
        sized = vit_jax.load(path, image_size=(40, 24))
        assert sized.architecture.image_size == (40, 24)
        assert sized.images(pictures).shape == (1, 40, 24, 3)
        outputs += [plain.model(x), sized.model(x)]
    for output in outputs[1:]:
        np.testing.assert_array_equal(output, outputs[0])


def test_timms_names_are_written_and_read_back(tmp_path):
    arch = models.architecture("BiT-R50x1", num_classes=3, image_size=40, width=0.5)
    arch = arch.replace(units=(2, 1))
    draw = np.random.default_rng(0)
    leaves = {
        name: draw.standard_normal(leaf.shape).astype(np.float32)
        for name, leaf in tree.named_leaves(models.abstract(arch)[1])
    }
    weights = files.Weights(arch, Tensors.of(leaves), None, "timm_bit")
    written = files.write(weights, tmp_path)
    assert written["stem.conv.weight"] == (32, 3, 7, 7)
    assert written["stages.0.blocks.1.conv2.weight"] == (32, 32, 3, 3)
    assert written["stages.1.blocks.0.downsample.conv.weight"] == (256, 128, 1, 1)
    assert written["head.fc.weight"] == (3, 256, 1, 1)
    again = files.read(tmp_path)
    assert again.dialect == "timm_bit"
    assert again.architecture == arch.replace(name=again.architecture.name)
    for name, leaf in leaves.items():
        assert np.array_equal(again.leaves.read(name), leaf), name
    config = json.loads((tmp_path / "config.json").read_text())
    config["architecture"] = "resnetv2_50d_gn"
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(errors.UserError, match="resnetv2_50d_gn"):
        files.read(tmp_path)
    post = models.architecture("BiT-R50x1-post", num_classes=3)
    with pytest.raises(errors.UserError, match="pre-activation"):
        files.write(
            files.Weights(post, Tensors.of({}), None, "timm_bit"), tmp_path / "post"
        )
