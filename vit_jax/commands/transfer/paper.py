"""What the paper reports of transfer: its Tables 2, 5 and 9, in percent."""

from collections.abc import Mapping

JFT, I21K, I1K = "JFT-300M", "ImageNet-21k", "ImageNet"
_MODELS = ("B/16", "B/32", "L/16", "L/32", "H/14")

# Table 5: by pre-training data and task, the models of `_MODELS`.
_TABLE_5: dict[str, dict[str, tuple[float, ...]]] = {
    I1K: {
        "cifar10": (98.13, 97.77, 97.86, 97.94),
        "cifar100": (87.13, 86.31, 86.35, 87.07),
        "imagenet2012": (77.91, 73.38, 76.53, 71.16),
        "flowers": (89.49, 85.43, 89.66, 86.36),
        "pets": (93.81, 92.04, 93.64, 91.35),
    },
    I21K: {
        "cifar10": (98.95, 98.79, 99.16, 99.13, 99.27),
        "cifar100": (91.67, 91.97, 93.44, 93.04, 93.82),
        "imagenet2012": (83.97, 81.28, 85.15, 80.99, 85.13),
        "flowers": (99.38, 99.11, 99.61, 99.19, 99.51),
        "pets": (94.43, 93.02, 94.73, 93.09, 94.82),
    },
    JFT: {
        "cifar10": (99.00, 98.61, 99.38, 99.19, 99.50),
        "cifar100": (91.87, 90.49, 94.04, 92.52, 94.55),
        "imagenet2012": (84.15, 80.73, 87.12, 84.37, 88.04),
        "flowers": (99.56, 99.27, 99.56, 99.45, 99.68),
        "pets": (95.80, 93.40, 97.11, 95.83, 97.56),
    },
}
# Table 2, mean and deviation of three runs.
_TABLE_2: dict[str, dict[str, tuple[float, float]]] = {
    f"H/14 {JFT}": {
        "imagenet_table2": (88.55, 0.04),
        "cifar10": (99.50, 0.06),
        "cifar100": (94.55, 0.04),
        "pets": (97.56, 0.03),
        "flowers": (99.68, 0.02),
        "vtab": (77.63, 0.23),
    },
    f"L/16 {JFT}": {
        "imagenet_table2": (87.76, 0.03),
        "cifar10": (99.42, 0.03),
        "cifar100": (93.90, 0.05),
        "pets": (97.32, 0.11),
        "flowers": (99.74, 0.00),
        "vtab": (76.28, 0.46),
    },
    f"L/16 {I21K}": {
        "imagenet_table2": (85.30, 0.02),
        "cifar10": (99.15, 0.03),
        "cifar100": (93.25, 0.05),
        "pets": (94.67, 0.15),
        "flowers": (99.61, 0.02),
        "vtab": (72.72, 0.21),
    },
    "BiT-L R152x4": {
        "imagenet_table2": (87.54, 0.02),
        "cifar10": (99.37, 0.06),
        "cifar100": (93.51, 0.08),
        "pets": (96.62, 0.23),
        "flowers": (99.63, 0.03),
        "vtab": (76.29, 1.70),
    },
}
# Table 9: VTAB-1k, in the order of `configs.tasks.VTAB`.
_TABLE_9: dict[str, tuple[float, ...]] = {
    f"H/14 {JFT}": (
        *(95.3, 85.5, 75.2, 99.7, 97.2, 65.0, 88.9, 83.3, 96.7, 91.4, 76.6, 91.7),
        *(63.8, 53.1, 79.4, 63.3, 84.5, 33.2, 51.2),
    ),
    f"L/16 {JFT}": (
        *(95.4, 81.9, 74.3, 99.7, 96.7, 63.5, 87.4, 83.6, 96.5, 89.7, 77.1, 86.4),
        *(63.1, 49.7, 74.5, 60.5, 82.2, 36.2, 51.1),
    ),
    f"L/16 {I21K}": (
        *(90.8, 84.1, 74.1, 99.3, 92.7, 61.0, 80.9, 82.5, 95.6, 85.2, 75.3, 70.3),
        *(56.1, 41.9, 74.7, 64.9, 79.9, 30.5, 41.7),
    ),
}


def references(task: str, model: str, vtab: Mapping[str, str]) -> dict[str, float]:
    """Returns the paper's figures of a task, by model and pre-training data.

    Those of Table 5 for a model that it has, else of Table 2; of VTAB's tasks those of
    Table 9, and of its groups their means.

    Args:
        task: A name of `configs.tasks.TASKS`, "vtab", or "vtab" and a group.
        model: As recipes call it.
        vtab: The group of each task of VTAB, in the order of its table.
    """
    if task.startswith("vtab "):
        group = task.removeprefix("vtab ")
        places = [i for i, other in enumerate(vtab.values()) if other == group]
        return {
            name: round(sum(row[i] for i in places) / len(places), 2)
            for name, row in _TABLE_9.items()
        }
    if task.startswith("vtab_"):
        place = list(vtab).index(task.removeprefix("vtab_"))
        return {name: row[place] for name, row in _TABLE_9.items()}
    if model in _MODELS and task in _TABLE_5[JFT]:
        place = _MODELS.index(model)
        return {
            f"{model} {data}": rows[task][place]
            for data, rows in _TABLE_5.items()
            if place < len(rows[task])
        }
    return {name: row[task][0] for name, row in _TABLE_2.items() if task in row}
