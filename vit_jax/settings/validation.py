"""Checks of configuration keys and values, before anything expensive starts."""

import os
import re
from collections.abc import Callable, Collection, Mapping
from typing import Any

from vit_jax import errors
from vit_jax.host import files


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns `{"model.name": "B/16", ...}` of nested mappings."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def nearest_key(key: str, known: Collection[str], *, cutoff: float = 0.0) -> str:
    """Returns the key like this one, by all of its words, else by its last.

    Args:
        key: One that there is not.
        known: Those that there are, at least one.
        cutoff: How alike last words are at least, up to 1; "" where none is.
    """
    by_last_word = {name.split(".")[-1]: name for name in known}
    word = errors.nearest(key.split(".")[-1], by_last_word, cutoff=cutoff)
    like = errors.nearest(key, known, cutoff=0.6)
    return like or (by_last_word[word] if word else "")


def check_keys(config: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
    """Raises `UserError` unless a configuration has the keys and types of another.

    Args:
        config: nested dict.
        defaults: as `configs/base.py` has it; "evals" holds whatever a run names.
    """
    check_known(config, defaults)
    given, known = flatten(config), flatten(defaults)
    missing = [k for k in known if not k.startswith("evals.") and k not in given]
    if missing or "evals" not in config:
        shown = ", ".join(missing[:5] or ["evals"])
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        raise errors.UserError(
            f"the configuration lacks {shown}{more}; start from base.get_config(), "
            "which has every key, and set single ones"
        )
    check_kinds(given, known)
    check_evals(config["evals"])


def check_known(config: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
    """Raises `UserError` for a key that there is not, with the nearest."""
    known = flatten(defaults)
    for key in flatten(config):
        if not key.startswith("evals.") and key not in known:
            raise errors.UserError(
                f'unknown configuration key {key!r}. Did you mean "'
                f'{nearest_key(key, known)}"? configs/base.py has all keys'
            )


def check_kinds(given: Mapping[str, Any], known: Mapping[str, Any]) -> None:
    """Raises `UserError` for a value of another type than its default, both flat."""
    for key, value in given.items():
        if key in known and not _is_like(value, known[key]):
            wanted = type(known[key]).__name__
            raise errors.UserError(
                f"{key}={repr(value)[:200]} is a {type(value).__name__}; want a "
                f"{wanted}, as the default {known[key]!r}"
            )


def _is_like(value: Any, default: Any) -> bool:
    """Whether a value has a default's type; whole numbers and lists will do."""
    if isinstance(default, bool) or isinstance(value, bool):
        return isinstance(value, bool) and isinstance(default, bool)
    accepted = {float: (int, float), tuple: (tuple, list)}
    kind = type(default)
    return isinstance(value, accepted[kind] if kind in accepted else kind)


def check_evals(evals: Any) -> None:
    """Raises `UserError` unless every evaluation is named and says what it wants."""
    common = ("type", "dataset", "split", "every")
    for name, options in evals.items() if isinstance(evals, Mapping) else [("", evals)]:
        if not isinstance(options, Mapping) or not all(
            isinstance(options.get(key), str) for key in common
        ):
            key = f"evals.{name}" if name else "evals"
            raise errors.UserError(
                f"{key}={str(options)[:100]!r} is no evaluation; want "
                '{"type": "classify", "dataset": "", "split": "test", "every": ""}, '
                "as base.classify and base.fewshot make them"
            )


def parse_size(text: str, name: str) -> tuple[int, int]:
    """Returns (height, width) of "48", "48x64" or "(48, 64)", in pixels.

    Args:
        text: what was typed.
        name: of the option, for errors.

    Raises:
        UserError: anything else.
    """
    one = r"\s*(\d{1,9})\s*,?\s*"
    two = r"\s*(\d{1,9})\s*[xX×,]\s*(\d{1,9})\s*,?\s*"
    inner = text.strip()
    if inner[:1] + inner[-1:] in ("()", "[]"):
        inner = inner[1:-1]
    numbers = re.fullmatch(two, inner) or re.fullmatch(one, inner)
    if not numbers or min(int(n) for n in numbers.groups()) < 1:
        raise errors.UserError(
            f"{name}={text!r} is no size; want pixels as in 224, or HEIGHTxWIDTH as "
            "in 224x192"
        )
    return int(numbers[1]), int(numbers[numbers.re.groups])


def check_local(path: Any, name: str) -> None:
    """Raises `UserError`, in one line, for a path to write to that is a URL.

    Args:
        path: a string or a `Path`, in which "gs://" has become "gs:/".
        name: of the option, for the error.
    """
    if address := files.address(path):
        scheme = address.partition(":")[0]
        raise errors.UserError(
            f"{name}={path}: nothing is written to {scheme}:// addresses; want a "
            "local or mounted folder (gcsfuse and the like mount buckets), or copy it "
            "there afterwards"
        )


def check_workdir(path: str | os.PathLike, name: str, *, profile: bool = False) -> None:
    """Raises `UserError` for an address where no run can write; it is asked.

    Args:
        path: a folder of this machine, or an address.
        name: of the option, for the error.
        profile: whether a trace is written there, too.
    """
    if address := files.address(path):
        from vit_jax.settings import places

        places.check(address, name, profile=profile)


def _number(low: float, high: float) -> tuple[Callable[[Any], bool], str]:
    return lambda x: low <= x <= high, f"a number from {low:.10g} to {high:.10g}"


def _range(low: float, high: float) -> tuple[Callable[[Any], bool], str]:
    return (
        lambda x: len(x) == 2 and low < x[0] <= x[1] <= high,
        f"two ascending numbers in ({low:g}, {high:g}]",
    )


def _triple(low: float, high: float) -> tuple[Callable[[Any], bool], str]:
    return (
        lambda x: len(x) in (0, 3) and all(low <= v <= high for v in x),
        f"three numbers from {low:g} to {high:g}, or ()",
    )


def _one_of(*choices: str) -> tuple[Callable[[Any], bool], str]:
    return lambda x: x in choices, "one of " + ", ".join(choices)


def _numbers(low: float, high: float) -> tuple[Callable[[Any], bool], str]:
    return (
        lambda x: all(low <= v <= high for v in x),
        f"numbers from {low:g} to {high:g}, as in (a, b)",
    )


def _is_rule(rule: Any) -> bool:
    name, factor = rule
    re.compile(name)
    return 0 <= factor <= 1e6


def _rules() -> tuple[Callable[[Any], bool], str]:
    wanted = '((regex of leaf names, factor), ...), as in (("^head/", 10.0),)'
    return lambda x: all(_is_rule(rule) for rule in x), wanted


def _parts() -> tuple[Callable[[Any], bool], str]:
    part = r"((blocks|stages)\[(\d{1,3}|\d{0,3}:\d{0,3})\]|[a-z]+)"
    words = re.compile(rf"({part}([+-]{part})*)?")
    wanted = "parts with + or - between them, as in stem+blocks[:6] or all-head"
    return lambda x: bool(words.fullmatch(x)), wanted


# First match wins; keys that no row names are checked where they are used.
CHECKS: list[tuple[str, Callable[[Any], bool], str]] = [
    (r"^seed$", *_number(0, 2**31 - 1)),
    (r"^batch_size$", *_number(1, 2**20)),
    (r"^microbatches$", *_number(0, 2**16)),
    (r"^keep$", *_number(1, 1000)),
    (r"^skip_bad_steps$", *_number(0, 2**20)),
    (r"^(roll_back|stop_after|distill\.temperature)$", *_number(0, 1000)),
    (r"^data\.(repeats|train\.erase_count)$", *_number(1, 2**16)),
    (r"^optimizer\.skip_spikes$", *_number(0, 1e6)),
    (r"^masked\.(rate|mask|replace)$", *_number(0, 1)),
    (r"^loss$", *_one_of("sigmoid", "softmax", "bce", "squared", "absolute")),
    (r"^labels$", *_one_of("auto", "names", "order")),
    (r"^label_smoothing$", *_number(0, 0.999)),
    (r"^ema$", *_number(0, 0.9999999)),
    (
        r"^model\.image_size$",
        lambda x: len(x) in (1, 2) and all(1 <= v <= 8192 for v in x),
        "(height, width) in pixels, each 1 to 8192",
    ),
    (r"^model\.(attention_)?dropout$", *_number(0, 0.999)),
    (r"^model\.head_bias$", *_number(-1000, 1000)),
    (r"^model\.norm_epsilon$", *_number(0, 1)),
    (r"^model\.(width|mlp_width)$", *_number(0, 2**17)),
    (r"^model\.(depth|heads|unroll)$", *_number(0, 2048)),
    (r"^model\.registers$", *_number(0, 4096)),
    (r"^model\.(prefix_positions|attention_window)$", *_number(0, 8192)),
    (
        r"^data\.max_corrupt$",
        lambda x: 0 <= x <= 1 or (1 < x <= 2**31 and x == int(x)),
        "a share of the images, 0 to 1, or their number, 2 or more",
    ),
    (r"^data\.read_timeout$", *_number(0, 10**6)),
    (r"^data\.damaged$", *_one_of("use", "corrupt")),
    (r"^data\.threads$", *_number(0, 4096)),
    (r"^data\.cache$", *_one_of("none", "ram", "device", "auto")),
    (r"^data\.device_trivial$", *_number(0, 10)),
    (r"^(data\.(device_erase|balance)|distill\.share)$", *_number(0, 1)),
    (r"^data\.mix\.(mixup|cutmix)$", *_number(0, 1000)),
    (r"^data\.mix\.(switch|share)$", *_number(0, 1)),
    (r"^data\.mean$", *_triple(-255, 255)),
    (r"^data\.std$", *_triple(1e-3, 1e4)),
    (r"^data\.train\.area$", *_range(0, 1)),
    (r"^data\.train\.aspect$", *_range(0, 100)),
    (r"^data\.(train|eval)\.(resize|pad)$", *_number(0, 8192)),
    (r"^optimizer\.lr$", *_number(0, 1e4)),
    (r"^optimizer\.(weight_decay|clip_norm|update_clip|end)$", *_number(0, 1e6)),
    (r"^optimizer\.(beta1|beta2|momentum)$", *_number(0, 0.9999999)),
    (r"^optimizer\.epsilon$", *_number(1e-30, 1)),
    (r"^optimizer\.drop_at$", *_numbers(0, 1)),
    (r"^optimizer\.(lr|decay)_rules$", *_rules()),
    (r"^optimizer\.layer_decay$", *_number(1e-3, 1)),
    (r"^optimizer\.freeze$", *_parts()),
    (r"^optimizer\.timescale$", *_number(1, 1e9)),
    (r"^optimizer\.factor_from$", *_number(1, 2**20)),
    (r"^optimizer\.accumulator_dtype$", *_one_of("float32", "bfloat16")),
    (r"^lora\.rank$", *_number(0, 2**12)),
    (r"^lora\.alpha$", *_number(1e-6, 1e6)),
    (
        r"^lora\.targets$",
        lambda x: (
            len(x) > 0 and len(set(x)) == len(x) == sum(isinstance(t, str) for t in x)
        ),
        'names without repetition, as in ("query", "value")',
    ),
    (
        r"^mesh\.data$",
        lambda x: x == -1 or 1 <= x <= 2**20,
        "-1 or a number of devices",
    ),
    (r"^mesh\.fsdp$", *_number(0, 2**20)),
    (r"^mesh\.tensor$", *_number(1, 2**10)),
    (r"^mesh\.slices$", *_number(1, 2**10)),
]


def _passes(good: Callable[[Any], bool], value: Any) -> bool:
    try:
        return good(value)
    except (TypeError, ValueError, re.error):  # a text in the place of a number
        return False


def _finite(value: Any) -> bool:
    if isinstance(value, int | float):
        return abs(value) < 2**63  # and so neither NaN nor infinite
    if isinstance(value, (tuple, list)):
        return all(_finite(v) for v in value)
    return True


def check_depth(value: Any, levels: int = 20) -> None:
    """Raises `UserError` where values lie deeper in each other than any need to."""
    if levels == 0:
        raise errors.UserError("lists too deep in each other, or one that holds itself")
    if isinstance(value, Mapping | tuple | list):
        for one in value.values() if isinstance(value, Mapping) else value:
            check_depth(one, levels - 1)


def check_values(config: Mapping[str, Any]) -> None:
    """Raises `UserError` for the first value that no run could use.

    Types are those of `configs/base.py`, which ml_collections holds flags to; this
    checks ranges and choices, that every number is finite, and `effects.check`.
    """
    for name, value in flatten(config).items():
        for pattern, good, wanted in CHECKS:
            if re.search(pattern, name):
                if not (_finite(value) and _passes(good, value)):
                    raise errors.UserError(f"{name}={value!r}: want {wanted}")
                break
        if not _finite(value):
            raise errors.UserError(f"{name}={value!r}: want finite numbers")
    from vit_jax.settings import effects  # a table that only runs ask

    effects.check(*beside_defaults(config))


def beside_defaults(config: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns a configuration, whole by its defaults, and these, both flat."""
    from vit_jax.settings import packaged

    defaults = flatten(packaged.defaults())
    both = defaults | flatten(config), defaults
    ours, theirs = ({key: _plain(flat[key]) for key in flat} for flat in both)
    return ours, theirs


def differences(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, tuple]:
    """Returns `{key: (ours, theirs)}` where two configurations differ."""
    mine, other = flatten(ours), flatten(theirs)
    missing = "(not set)"
    pairs = {
        key: (mine.get(key, missing), other.get(key, missing))
        for key in sorted(mine | other)
    }
    return {
        key: pair for key, pair in pairs.items() if _plain(pair[0]) != _plain(pair[1])
    }


def _plain(value: Any) -> Any:
    """JSON has no tuples: compares them as lists."""
    return [_plain(v) for v in value] if isinstance(value, (tuple, list)) else value
