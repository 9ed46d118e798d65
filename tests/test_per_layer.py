"""LAMB and Muon are their formulas, of each layer of a stacked weight alone."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from test_optim import GRADS, PEAK, assert_close, make_params, run

from vit_jax import errors, tree
from vit_jax.learning import optim, per_layer


def optimizer(name, **options):
    options = {"schedule": optax.constant_schedule(PEAK)} | options
    return optim.make_optimizer(name, **options)


def by_hand(start, grads, decay):
    """LAMB of one weight, all of it at once."""
    p, m, v = start.astype(np.float64), 0.0, 0.0
    for n, g in enumerate(grads, start=1):
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        update = m / (1 - 0.9**n) / (np.sqrt(v / (1 - 0.999**n)) + 1e-8) + decay * p
        ratio = np.linalg.norm(p) / np.linalg.norm(update) if decay else 1.0
        p = p - PEAK * ratio * update
    return p


def test_lamb_is_its_formula_of_every_layer():
    """Biases and tokens that do not decay have no ratio, as in NVIDIA's and timm's."""
    tx = optimizer("lamb", weight_decay=0.1, decay_rules=optim.DECAY["kernels"])
    moved, _ = run(tx, make_params(), GRADS[:3])
    givens = [dict(tree.named_leaves(given)) for given in (make_params(), *GRADS[:3])]
    for name, leaf in tree.named_leaves(moved):
        start, *grads = (given[name] for given in givens)
        decay = 0.1 if name.endswith("kernel") else 0.0
        wanted = by_hand(start, grads, decay)
        if name == "blocks/mlp/up/kernel":
            layers = [by_hand(start[i], [g[i] for g in grads], decay) for i in (0, 1)]
            assert not np.allclose(wanted, layers, rtol=1e-4)
            wanted = np.stack(layers)
        np.testing.assert_allclose(leaf, wanted, rtol=2e-5)


def test_lamb_without_a_norm_is_adam():
    zeros = jax.tree.map(np.zeros_like, make_params())
    rules = {"weight_decay": 0.1, "decay_rules": optim.DECAY["all"]}
    assert_close(
        run(optimizer("lamb", **rules), zeros, GRADS[:1])[0],
        run(optimizer("adam", **rules), zeros, GRADS[:1])[0],
    )


def shapes_of_a_block():
    return {
        "blocks/attn/query/kernel": (2, 12, 3, 4),
        "blocks/attn/out/kernel": (2, 3, 4, 12),
        "blocks/mlp/up/kernel": (2, 12, 24),
        "blocks/mlp/down/kernel": (2, 24, 12),
        "blocks/mlp/up/bias": (2, 24),
        "head/kernel": (12, 5),
    }


def values(seed):
    rng = np.random.default_rng(seed)
    return tree.from_named(
        {
            name: rng.normal(size=shape).astype(np.float32)
            for name, shape in shapes_of_a_block().items()
        }
    )


def newton_schulz(matrix):
    """Its author's iteration, of one matrix."""
    x = matrix / np.linalg.norm(matrix)
    for _ in range(5):
        square = x @ x.T
        x = 3.4445 * x + (-4.775 * square + 2.0315 * square @ square) @ x
    return x


def test_muon_is_its_formula(monkeypatch):
    """A matrix a layer, its heads side by side; what is no matrix has Adam."""
    monkeypatch.setattr(per_layer, "DTYPE", jnp.float32)
    given = values(0), *(values(seed) for seed in (1, 2))
    moved, state = run(optimizer("muon", momentum=0.95), given[0], given[1:])
    plain, _ = run(optimizer("adam"), given[0], given[1:])
    plain = dict(tree.named_leaves(plain))
    for name, leaf in tree.named_leaves(moved):
        if name.endswith("bias") or name.startswith("head"):
            np.testing.assert_array_equal(leaf, plain[name])
            continue
        start, *grads = (dict(tree.named_leaves(v))[name] for v in given)
        flat = (2, 24 if "down" in name else 12, -1)
        mean, total = np.zeros_like(start), 0.0
        for grad in grads:
            mean = 0.95 * mean + 0.05 * grad
            ahead = (0.95 * mean + 0.05 * grad).reshape(flat)
            total = total + np.stack([newton_schulz(matrix) for matrix in ahead])
        longer = max(start.reshape(flat).shape[1:])
        wanted = -PEAK * 0.2 * np.sqrt(longer) * total.reshape(start.shape)
        apart = np.linalg.norm(leaf - start - wanted) / np.linalg.norm(wanted)
        assert apart < 1e-3
    held = [n for n, _ in tree.named_leaves(state) if "/mu/" in n and "muon" in n]
    assert len(held) == 4


@pytest.mark.parametrize("shape", [(3, 8, 20), (3, 20, 8)])
def test_what_muon_makes_is_nearly_orthogonal(shape):
    matrices = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    found = jax.jit(per_layer.orthogonal)(jnp.asarray(matrices))
    singular = np.linalg.svd(np.asarray(found, np.float32), compute_uv=False)
    assert 0.6 < singular.min() and singular.max() < 1.3
    u, _, v = np.linalg.svd(matrices, full_matrices=False)
    assert np.sum(np.asarray(found, np.float32) * (u @ v)) > 0.85 * 3 * 8


def test_muon_wants_blocks():
    params = {"root": {"conv": {"kernel": np.ones((3, 3, 3, 4), np.float32)}}}
    with pytest.raises(errors.UserError, match="for the kernels of blocks"):
        optimizer("muon").init(params)
