"""Accuracy over compute of ViTs, ResNets and hybrids (the paper's Figure 5, in form).

Each family has a model at each of two budgets of multiply-adds an image, within a tenth
of each other, and one pass over 8,000 images of CIFAR-10 with the best of two rates.
The ResNets are BiT's of half width. The hybrid of few layers that has a name, R+Ti/16,
divides an image by 32, so it sees CIFAR-10 at 64 px, where 4 tokens are left; at the 32
px of the others its Transformer would see one.
"""

from vit_jax.studies import study
from vit_jax.studies.study import Flags, Results, Study, Verdict

VIT, RESNET, HYBRID = "ViT", "ResNet", "hybrid"
BUDGETS = (13, 21)  # million multiply-adds an image


def _sized(name: str, width: int, depth: int) -> Flags:
    """A Transformer whose heads are 64 wide and whose MLP is twice its width."""
    sizes = {"width": width, "depth": depth, "mlp_width": 2 * width}
    sizes["heads"] = width // 64
    return (
        f"--config.model.name={name}",
        *(f"--config.model.{key}={value}" for key, value in sizes.items()),
    )


def _resnet(name: str) -> Flags:
    return (f"--config.model.name={name}", *study.OF_THE_NAME)


def _hybrid(width: int, depth: int) -> Flags:
    return (
        *_sized("R+Ti/16", width, depth),
        "--config.model.image_size=(64,64)",
    )


MODELS: dict[str, tuple[Flags, ...]] = {
    VIT: (_sized("Ti/8", 128, 6), _sized("Ti/8", 192, 4)),
    RESNET: tuple(_resnet(f"BiT-{size}") for size in ("R26x0.5", "R50x0.5")),
    HYBRID: (_hybrid(128, 4), _hybrid(192, 6)),
}


def _name(family: str, budget: int) -> str:
    return f"{family}, {budget} million"


def verdict(results: Results) -> Verdict:
    """Returns whether the hybrid is better than the ViT at the smallest budget."""
    margins = {
        (other, budget): study.margin(
            results[_name(other, budget)], results[_name(VIT, budget)]
        )
        for budget in BUDGETS
        for other in (HYBRID, RESNET)
    }
    return Verdict(
        margins[HYBRID, BUDGETS[0]].counts,
        "; ".join(
            f"{other} over {VIT} at {budget} million: {margin}"
            for (other, budget), margin in margins.items()
        )
        + ".",
    )


STUDY = Study(
    question="At equal compute, is a hybrid better than a ViT where compute is small, "
    "and where does a ResNet stand?",
    rule="With the best of two rates each, chosen on other images by the first seed, "
    "the hybrid is better at the smallest budget if its mean test accuracy over three "
    "seeds is above the ViT's by more than twice the pooled deviation over seeds. "
    "The larger budget and the ResNet are reported.",
    config="cifar10:adam",
    flags=(
        "--config.data.train_split=train[:8000]",
        "--config.total=1 epochs",
        "--config.batch_size=32",
        *study.AT_THE_END,
    ),
    arms={
        _name(family, budget): flags
        for family, sizes in MODELS.items()
        for budget, flags in zip(BUDGETS, sizes, strict=True)
    },
    settings=study.rates("1e-3", "3e-3"),
    dev=study.judged_on("train[45000:]"),
    verdict=verdict,
)
