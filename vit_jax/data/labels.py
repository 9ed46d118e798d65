"""Which output of a model is which class of a dataset: by name, or by their order."""

import logging
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vit_jax import errors
from vit_jax.data import sources

Names = Sequence[str]

# auto: by name where both sides have names; names: nothing else will do; order: the
# n-th class is the n-th output, whatever they are called.
MODES: dict[str, None] = dict.fromkeys(("auto", "names", "order"))
TRUST = "--labels=order (of a run: --config.labels=order)"
_WNID = re.compile(r"n\d{8}")
_SHOWN = 5


@dataclass(frozen=True)
class Side:
    """A model's outputs, or a dataset's classes.

    Attributes:
        what: What messages call it.
        count: How many there are.
        names: One for each, or None.
        ids: Other names of the same, as the synset numbers that timm keeps beside
            descriptions; or None.
    """

    what: str
    count: int
    names: tuple[str, ...] | None = None
    ids: tuple[str, ...] | None = None


def align(model: Side, dataset: Side, mode: str = "auto") -> np.ndarray | None:
    """Returns the model's output of each class of a dataset.

    Names are the same if they are so but for case, what is between their words and
    leading zeros, or up to the first comma ("tench, Tinca tinca"). A dataset may have
    fewer classes than the model has outputs, if they are all among them. Names that
    stand for nothing (the "LABEL_0" of transformers, a model's "0", "1", ...) and names
    of ImageNet's synsets beside words cannot be compared: there the order is trusted,
    and a warning says so.

    Args:
        model: Its outputs.
        dataset: Its classes.
        mode: Key of `MODES`.

    Returns:
        int64 [classes], or None where class i is output i and all outputs are classes.

    Raises:
        errors.UserError: names that do not fit, or other numbers of classes and no
            names.
    """
    errors.lookup(MODES, mode, "labels")
    outputs, classes = _names_of(model, dataset.names), dataset.names
    if mode == "names" and not (outputs and classes):
        bare = model if not outputs else dataset
        raise errors.UserError(
            f"labels='names', and {bare.what} has no names of its classes; {TRUST} "
            "matches them by their order"
        )
    if mode == "order" or not (outputs and classes):
        _by_order(model, dataset, mode)
        return None
    for candidates in (outputs, model.ids):
        order = _matched(candidates, classes) if candidates else None
        if order is not None:
            return _reported(order, model, dataset, classes)
    if not _common(outputs, classes) and model.count == dataset.count:
        if mode == "auto" and _incomparable(outputs, classes):
            logging.warning(
                "the outputs of %s are called %s, the classes of %s %s: they cannot "
                "be compared, and are matched by their order",
                *(model.what, _first(outputs), dataset.what, _first(classes)),
            )
            return None
    raise _different(model, dataset, outputs, classes)


def _names_of(model: Side, classes: Names | None) -> tuple[str, ...] | None:
    """The model's names; for a dataset that is called so, those of transformers."""
    if model.names or not classes:
        return model.names
    unnamed = tuple(f"LABEL_{i}" for i in range(model.count))
    return unnamed if set(classes) <= set(unnamed) else None


def _by_order(model: Side, dataset: Side, mode: str) -> None:
    if model.count != dataset.count:
        raise errors.UserError(
            f"{dataset.what} has {dataset.count} classes, the model's head has "
            f"{model.count}: top-1 means nothing. Fine-tune a head for "
            f"{dataset.what}, or measure the features with a few-shot evaluation "
            "(--fewshot)"
        )
    classes = list(dataset.names or ())
    counted = all(re.fullmatch(r"[0-9]+", name) for name in classes)
    if mode == "auto" and counted and classes != sorted(classes, key=int):
        moved = next(
            i for i, n in enumerate(sorted(classes, key=int)) if n != classes[i]
        )
        logging.warning(
            "%s has no names of its outputs; the classes of %s are numbers in the "
            "order of text, as in torchvision: output %d is class %s. Where the model "
            "has them in the order of numbers, rename the folders with leading zeros",
            *(model.what, dataset.what, moved, classes[moved]),
        )
    elif mode == "auto" and bool(model.names) != bool(classes):
        logging.info(
            "classes are matched by their order: %s has no names of them",
            dataset.what if model.names else model.what,
        )


def _folded(name: str) -> str:
    """The words of a name: how it is spelled and what is between them is left out."""
    plain = unicodedata.normalize("NFKC", name).casefold()
    words = " ".join(re.sub(r"[\W_]+", " ", plain).split())
    return str(int(words)) if re.fullmatch(r"[0-9]{1,18}", words) else words


def _synonym(name: str) -> str:
    return _folded(name.split(",")[0])


# From the strictest to the loosest sense in which two names are the same.
_SAME: tuple[Callable[[str], str], ...] = (str, _folded, _synonym)


def _matched(outputs: Names, classes: Names) -> np.ndarray | None:
    """The output of each class; None unless each has one, and one alone."""
    for same in _SAME:
        places, wanted = _places(outputs, same), _places(classes, same)
        if all(_fits(wanted[k], classes, places[k], outputs) for k in wanted):
            order = np.empty(len(classes), np.int64)
            for key, mine in wanted.items():
                order[mine] = places[key]
            return order
    return None


def _places(names: Names, same: Callable[[str], str]) -> dict[str, list[int]]:
    places = defaultdict(list)
    for place, name in enumerate(names):
        places[same(name)].append(place)
    return places


def _fits(mine: list[int], classes: Names, theirs: list[int], outputs: Names) -> bool:
    """Whether classes of one name are as many outputs, and of one name to the letter.

    ImageNet has two cranes; but "C++" and "C#" are no two of a kind.
    """
    one = len({classes[i] for i in mine}) == len({outputs[i] for i in theirs}) == 1
    return len(mine) == len(theirs) and one


def _reported(
    order: np.ndarray, model: Side, dataset: Side, classes: Names
) -> np.ndarray | None:
    """Says what was matched; None where there is nothing to change."""
    same = np.array_equal(order, np.arange(model.count))
    twice = [name for name, n in Counter(classes).items() if n > 1]
    if twice and not same:
        logging.warning(
            "%s names %s more than once: these are matched in their order",
            *(dataset.what, _first(twice)),
        )
    if same:
        return None
    more = ", ..." if len(order) > _SHOWN else ""
    fewer = "; the best is looked for among all of them" * (len(order) < model.count)
    logging.info(
        "the classes of %s are matched by name: %s are outputs %s%s of the %d of %s%s",
        *(dataset.what, _first(classes), ", ".join(map(str, order[:_SHOWN]))),
        *(more, model.count, model.what, fewer),
    )
    return order


def _common(outputs: Names, classes: Names) -> set[str]:
    return {_synonym(n) for n in outputs} & {_synonym(n) for n in classes}


def _incomparable(outputs: Names, classes: Names) -> bool:
    """Whether one side's names say no more than their order does."""
    if list(outputs) == [str(i) for i in range(len(outputs))]:
        return True
    return any(
        all(_WNID.fullmatch(name) for name in names) and list(names) == sorted(names)
        for names in (outputs, classes)
    )


def _first(names: Names) -> str:
    shown = ", ".join(repr(name[:40]) for name in names[:_SHOWN])
    return shown + (", ..." if len(names) > _SHOWN else "")


def _different(
    model: Side, dataset: Side, outputs: Names, classes: Names
) -> errors.UserError:
    known = {_synonym(name) for name in outputs}
    missing = [name for name in classes if _synonym(name) not in known]
    gist = f"{len(missing)} of {dataset.count} have no output: {_first(missing)}"
    if not missing:
        counts = Counter(_synonym(name) for name in outputs)
        twice = [n for n in classes if counts[_synonym(n)] > 1]
        gist = f"the model has several outputs called {_first(twice)}"
    trust = f"where both are in the same order, {TRUST} trusts it. "
    return errors.UserError(
        f"the classes of {dataset.what} are not those of {model.what} by name: {gist}\n"
        f"  outputs ({model.count}): {_first(outputs)}\n"
        f"  classes ({dataset.count}): {_first(classes)}\n"
        f"Call them alike; {trust * (model.count == dataset.count)}"
        "--fewshot and --config.keep_head=False do without these outputs."
    )


class Relabelled:
    """A source whose labels are a model's outputs instead of a dataset's classes."""

    def __init__(self, source: Any, order: np.ndarray, num_outputs: int):
        """Takes a source of ours and what `align` returned for its classes."""
        self.image_shape = source.image_shape
        self.label_names = None
        self.num_classes = num_outputs
        self._source, self._order = source, order

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> sources.Example:
        """Returns the example with an int or multi-hot [outputs] label.

        Raises:
            errors.UserError: a label that is no class of the dataset.
            decode.BadImage: as the source.
        """
        example = self._source[index]
        label, classes = np.asarray(example["label"]), len(self._order)
        if label.ndim == 0 and 0 <= label < classes:
            return example | {"label": int(self._order[label])}
        if label.shape != (classes,):
            raise errors.UserError(
                f"{self.name(index)}: label {example['label']!r} is out of range; "
                f"wanted a class in 0..{classes - 1}, or one number for each"
            )
        hot = np.zeros(self.num_classes, np.float32)
        hot[self._order] = label
        return example | {"label": hot}

    def name(self, index: int) -> str:
        """Returns the source's name of an example."""
        return self._source.name(index)
