"""What other codes call our models: from their names to the nearest of ours.

timm ("vit_base_patch16_224.augreg_in21k"), Hugging Face's hub
("google/vit-base-patch16-224"), Google's files ("ViT-B_16"), torchvision ("vit_b_16"),
OpenCLIP ("ViT-B-16") and DINOv2's own ("dinov2_vitb14"). Only for advice: their models
may differ in more than sizes, so a name of theirs is never taken for one of ours.
"""

import re

_WORDS = {
    "tiny": "Ti",
    "small": "S",
    "medium": "M",
    "base": "B",
    "large": "L",
    "huge": "H",
    "giantopt": "g-opt",
    "giant": "g",
    "gigantic": "G",
    "so400m": "So400m",
}
_LETTERS = {"t": "Ti", "ti": "Ti", "s": "S", "m": "M", "b": "B", "l": "L", "h": "H"}
_WORD = "|".join(_WORDS)
_LETTER = r"ti|so400m|[tsmblhg]"
# The first that is found, in a name in small letters with "-" between its parts.
_FORMS = (
    # google/vit-hybrid-base-bit-384, before what a BiT is called.
    rf"vit-(?P<hybrid>hybrid)-(?P<word>{_WORD})",
    # ResNets: resnetv2_50x1_bit, BiT-M-R50x1, google/bit-50.
    r"resnetv2-(?P<bit>\d+)x(?P<width>\d)-bit",
    r"\bbit-(?:[sm]-)?r?(?P<bit>\d+)(?:x(?P<width>\d))?(?![\d.])",
    # Hybrids: vit_base_r50_s16_224, R50+ViT-B_16, R26_S_32.
    rf"vit-(?P<word>{_WORD})-(?:r|resnet)(?P<resnet>\d*)(?:-s(?P<patch>\d+))?(?:-|$)",
    rf"\br(?P<resnet>\d*)[+-](?:vit-)?(?P<letter>{_LETTER})-(?P<patch>\d+)",
    # Mixers: mixer_b16_224, Mixer-B_16.
    r"mixer-(?P<mixer>[sbl])-?(?P<patch>\d+)",
    # vit_base_patch16_224, facebook/deit-base-distilled-patch16-224.
    rf"\b(?:vit|deit3?|beit|beitv2|eva|eva02|siglip2?)-(?P<word>{_WORD})"
    r"(?:-[a-z][a-z0-9]*)*?-patch-?(?P<patch>\d+)",
    rf"\bflexivit-(?P<word>{_WORD})",
    # DINOv2 and MAE on the hub do not say the patch either.
    rf"(?P<dino>dinov2)(?:-with-registers)?-(?P<word>{_WORD})\b",
    rf"\bvit-mae-(?P<word>{_WORD})\b",
    # ViT-B_16, vit_b_16, ViT-B-16, dino_vitb16.
    rf"vit-?(?P<letter>{_LETTER})-?(?P<patch>\d+)",
)
# Patches of names that do not say theirs.
_PATCH = {"dinov2": "14"}


def of_ours(name: str) -> tuple[str, int | None] | None:
    """Returns our name for a model that another code calls `name`, and its image size.

    Args:
        name: With or without an organisation before it and a tag after it.

    Returns:
        E.g. ("B/16", 224); None for the size where the name does not say it, and for
        all where nothing of ours is near.
    """
    last = re.sub(r"[_/ ]", "-", name).partition(".")[0]
    for form in _FORMS:
        if found := re.search(form, last, re.IGNORECASE | re.ASCII):
            size = re.search(r"\d{3}", last[found.end() :])
            named = {k: v for k, v in found.groupdict().items() if v is not None}
            return _named(named), int(size[0]) if size else None
    return None


def _named(parts: dict[str, str]) -> str:
    lower = {key: value.lower() for key, value in parts.items()}
    if "bit" in parts:
        return f"BiT-R{parts['bit']}x{parts['width'] if 'width' in parts else 1}"
    if "mixer" in parts:
        return f"Mixer-{parts['mixer'].upper()}/{parts['patch']}"
    size = _WORDS[lower["word"]] if "word" in parts else _letter(parts["letter"])
    dino = lower["dino"] if "dino" in parts else ""
    patch = parts["patch"] if "patch" in parts else _PATCH.get(dino, "16")
    if "hybrid" in parts:
        return f"R50+{size}/{patch}"
    if "resnet" in parts:
        return f"R{parts['resnet']}+{size}/{patch}"
    return f"{size}/{patch}"


def _letter(text: str) -> str:
    """The size of a letter or two; only of g and G does the case tell which."""
    if text in ("g", "G"):
        return text
    lower = text.lower()
    return _WORDS[lower] if lower in _WORDS else _LETTERS[lower]


def advice(name: str) -> str:
    """Says which model of ours a name of another code's is nearest to; or ""."""
    found = of_ours(name)
    if found is None or found[0] == name:
        return ""
    ours, size = found
    sized = f", image_size={size}" if size else ""
    return (
        f"model {name[:200]!r} is a name of another code; the nearest here is "
        f"{ours!r}: create_model({ours!r}, num_classes=...{sized}).\nFor weights of "
        'theirs: vit_jax.load("FILE"), or load("hf://ORG/NAME") from the hub.'
    )
