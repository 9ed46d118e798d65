"""What the tests against torch models share."""

import jax
import numpy as np

from vit_jax import models


def model_of(weights):
    # A loop over the blocks takes less time to compile.
    graphdef, _ = models.abstract(weights.architecture.replace_known(unroll=1))
    params = jax.tree.map(jax.numpy.asarray, weights.params)
    return models.merge(graphdef, params)


def images_of(arch):
    shape = (2, *arch.image_size, arch.channels)
    return np.random.default_rng(1).standard_normal(shape).astype(np.float32)


def randomized(model):
    import torch

    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, value in model.named_parameters():
            noise = torch.randn(value.shape, generator=generator)
            one = float("norm" in name and name.endswith("weight"))
            value.copy_(0.2 * noise + one)
    return model
