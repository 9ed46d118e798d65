"""BiT ResNets, the paper's baseline: `configs/bit.py:BiT-R50x1[,i1k|i21k|jft][,sgd]`.

On JFT the paper's rows of Table 3, with Adam; add `sgd` for BiT's own recipe (Table 7
compares them), which is the only one on i1k and i21k: SGD with momentum 0.9, rate 0.03
for 256 images, 5000 steps of warmup, a tenth after shares of the run (BiT, section
3.3). Table 7's SGD runs took 7 epochs: add --config.total="7 epochs", and the shares
stay. Softmax on i1k and decay of kernels are big_vision's reading of it. Names with
"-post" are the post-activation form.
"""

from ml_collections import ConfigDict

from configs import pretrain

# dataset -> epochs, and those after which the rate falls to a tenth.
SGD = {
    "i1k": (90, (30, 60, 80)),
    "i21k": (90, (30, 60, 80)),
    "jft": (40, (10, 23, 30, 37)),
}


def get_config(arguments: str | None = None) -> ConfigDict:
    """Returns the recipe for "MODEL[,DATASET][,sgd]"."""
    model, *words = (arguments or "BiT-R50x1").split(",")
    sgd = words[-1:] == ["sgd"]
    dataset, *rest = [*(words[:-1] if sgd else words), "i1k"]
    if rest not in ([], ["i1k"]):
        raise ValueError(f"{arguments!r}: want MODEL[,{'|'.join(SGD)}][,sgd]")
    pretrain.choose("pre-training dataset", dataset, SGD)
    if dataset == "jft" and not sgd:
        config = pretrain.recipe(model.removesuffix("-post"), "jft")
        config.model.name = model
        config.model.pre_logits = False
        return config
    return _sgd(model, dataset)


def _sgd(model: str, dataset: str) -> ConfigDict:
    config = pretrain.on(dataset)
    config.model.name = model
    config.model.pre_logits = False
    epochs, drops = SGD[dataset]
    config.total = f"{epochs} epochs"
    config.optimizer.name = "sgd"
    config.optimizer.lr = 0.03 * config.batch_size / 256
    config.optimizer.schedule = "stairs"
    config.optimizer.drop_at = tuple(drop / epochs for drop in drops)
    config.optimizer.warmup = "5_000 steps"
    # BiT's 1e-4 is an L2 term, which the momentum sums to ten times itself.
    config.optimizer.weight_decay = 1e-3
    config.optimizer.decay = "kernels"
    if dataset == "i1k":
        config.loss = "softmax"
        config.model.head_bias = 0.0
    return config
