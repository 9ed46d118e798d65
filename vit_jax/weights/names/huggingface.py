"""Names of models of transformers on the hub, of Google's and Meta's organisations.

"ORGANISATION/NAME" -> our size, the side of the images they are evaluated on, and the
dialect. Another organisation's models, or towers, are lines of their own here.
"""

_VIT, _DEIT, _DINOV2 = "hf_vit", "hf_deit_distilled", "hf_dinov2"
_REGISTERS, _DINOV3 = "hf_dinov2_with_registers", "hf_dinov3"

TABLE: dict[str, tuple[str, int, str]] = {
    "google/vit-base-patch16-224": ("B/16", 224, _VIT),
    "google/vit-base-patch16-224-in21k": ("B/16", 224, _VIT),
    "google/vit-base-patch16-384": ("B/16", 384, _VIT),
    "google/vit-base-patch32-224-in21k": ("B/32", 224, _VIT),
    "google/vit-base-patch32-384": ("B/32", 384, _VIT),
    "google/vit-huge-patch14-224-in21k": ("H/14", 224, _VIT),
    "google/vit-large-patch16-224": ("L/16", 224, _VIT),
    "google/vit-large-patch16-224-in21k": ("L/16", 224, _VIT),
    "google/vit-large-patch16-384": ("L/16", 384, _VIT),
    "google/vit-large-patch32-224-in21k": ("L/32", 224, _VIT),
    "google/vit-large-patch32-384": ("L/32", 384, _VIT),
    # A DeiT without distillation is a ViT there.
    "facebook/deit-base-patch16-224": ("B/16", 224, _VIT),
    "facebook/deit-base-patch16-384": ("B/16", 384, _VIT),
    "facebook/deit-small-patch16-224": ("S/16", 224, _VIT),
    "facebook/deit-tiny-patch16-224": ("Ti/16", 224, _VIT),
    "facebook/deit-base-distilled-patch16-224": ("B/16", 224, _DEIT),
    "facebook/deit-base-distilled-patch16-384": ("B/16", 384, _DEIT),
    "facebook/deit-small-distilled-patch16-224": ("S/16", 224, _DEIT),
    "facebook/deit-tiny-distilled-patch16-224": ("Ti/16", 224, _DEIT),
    "facebook/dino-vitb16": ("B/16", 224, _VIT),
    "facebook/dino-vitb8": ("B/8", 224, _VIT),
    "facebook/dino-vits16": ("S/16", 224, _VIT),
    "facebook/dino-vits8": ("S/8", 224, _VIT),
    "facebook/dinov2-base": ("B/14", 224, _DINOV2),
    "facebook/dinov2-base-imagenet1k-1-layer": ("B/14", 224, _DINOV2),
    # Its MLP is a SwiGLU, which no size here has by its name.
    "facebook/dinov2-giant": ("", 224, _DINOV2),
    "facebook/dinov2-giant-imagenet1k-1-layer": ("", 224, _DINOV2),
    "facebook/dinov2-large": ("L/14", 224, _DINOV2),
    "facebook/dinov2-large-imagenet1k-1-layer": ("L/14", 224, _DINOV2),
    "facebook/dinov2-small": ("S/14", 224, _DINOV2),
    "facebook/dinov2-small-imagenet1k-1-layer": ("S/14", 224, _DINOV2),
    "facebook/dinov2-with-registers-base": ("B/14", 224, _REGISTERS),
    "facebook/dinov2-with-registers-base-imagenet1k-1-layer": ("B/14", 224, _REGISTERS),
    "facebook/dinov2-with-registers-giant": ("", 224, _REGISTERS),
    "facebook/dinov2-with-registers-giant-imagenet1k-1-layer": ("", 224, _REGISTERS),
    "facebook/dinov2-with-registers-large": ("L/14", 224, _REGISTERS),
    "facebook/dinov2-with-registers-large-imagenet1k-1-layer": (
        *("L/14", 224),
        _REGISTERS,
    ),
    "facebook/dinov2-with-registers-small": ("S/14", 224, _REGISTERS),
    "facebook/dinov2-with-registers-small-imagenet1k-1-layer": (
        *("S/14", 224),
        _REGISTERS,
    ),
    "facebook/dinov3-vit7b16-pretrain-lvd1689m": ("", 224, _DINOV3),
    "facebook/dinov3-vit7b16-pretrain-sat493m": ("", 224, _DINOV3),
    "facebook/dinov3-vitb16-pretrain-lvd1689m": ("B/16", 224, _DINOV3),
    "facebook/dinov3-vith16plus-pretrain-lvd1689m": ("", 224, _DINOV3),
    "facebook/dinov3-vitl16-pretrain-lvd1689m": ("L/16", 224, _DINOV3),
    "facebook/dinov3-vitl16-pretrain-sat493m": ("L/16", 224, _DINOV3),
    "facebook/dinov3-vits16-pretrain-lvd1689m": ("S/16", 224, _DINOV3),
    "facebook/dinov3-vits16plus-pretrain-lvd1689m": ("", 224, _DINOV3),
    "facebook/vit-msn-base": ("B/16", 224, _VIT),
    "facebook/vit-msn-base-4": ("B/4", 224, _VIT),
    "facebook/vit-msn-large": ("L/16", 224, _VIT),
    "facebook/vit-msn-large-7": ("L/7", 224, _VIT),
    "facebook/vit-msn-small": ("S/16", 224, _VIT),
}
