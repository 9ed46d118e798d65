"""`VitArchitecture`: all that decides a Vision Transformer."""

import dataclasses

from vit_jax import errors
from vit_jax.models import resnet_sizes
from vit_jax.models.architecture import size_text
from vit_jax.models.vit_fields import VitFields


@dataclasses.dataclass(frozen=True, kw_only=True)
class VitArchitecture(VitFields):
    """Fields of a Vision Transformer that fit together; they are `VitFields`'.

    Raises:
        errors.UserError: they do not.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_pair("patch")
        self.check_least(1, "width", "depth", "mlp_width", "heads", "resnet_width")
        self.check_least(0, "unroll", "registers", "prefix_positions", "layer_scale")
        self.check_least(
            0, "attention_window", "patch_outputs", "posemb_std", "rope_grid"
        )
        self.check_rates("dropout", "attention_dropout", "drop_path", "patch_dropout")
        if self.width % self.heads:
            raise errors.UserError(
                f"heads={self.heads} must divide width={self.width}."
            )
        if self.resnet is not None:
            resnet_sizes.check_hybrid(self.resnet, self.resnet_width)
        self._resolve()
        self._check_combinations()
        self._check_rope()
        self._check_patch_dropout()
        self._check_image()

    def _resolve(self) -> None:
        needed = self.pool in ("token", "token_mean", "distilled")
        if self.class_token == "auto":
            object.__setattr__(self, "class_token", "yes" if needed else "no")
        if needed and not self.has_class_token:
            raise errors.UserError(f"pool={self.pool!r} needs class_token='yes'.")
        self._resolve_pre_logits()
        if not self.qkv_bias:  # one value for one function
            object.__setattr__(self, "key_bias", True)
        if self.posemb == "relative" and self.posemb_at == "stem":
            object.__setattr__(self, "posemb_at", "every")

    def _resolve_pre_logits(self) -> None:
        """One value for one function: no width is False, the tokens' is True."""
        width = self.pre_logits
        if isinstance(width, bool):
            return
        if not isinstance(width, int) or width < 0 or width == 1:
            raise errors.UserError(
                f"pre_logits={width!r}; want True for a layer of the width of the "
                "tokens, its width from 2, or False."
            )
        if width in (0, self.width):
            object.__setattr__(self, "pre_logits", width == self.width)

    def _check_combinations(self) -> None:
        if (self.attention_mask == "none") != (self.attention_window == 0):
            raise errors.UserError(
                f"attention_mask={self.attention_mask!r} with attention_window="
                f"{self.attention_window}: a mask needs a window of 1 or more, "
                "and no mask 0."
            )
        if self.posemb in ("learned_2d", "sincos_1d", "sincos_2d"):
            divisor = 4 if self.posemb == "sincos_2d" else 2
            if self.width % divisor:
                raise errors.UserError(
                    f"posemb={self.posemb!r} needs a width that {divisor} divides, "
                    f"not {self.width}."
                )
        if self.attention == "dot_product" and self.attention_dropout:
            raise errors.UserError(
                f"attention='dot_product' has no attention_dropout="
                f"{self.attention_dropout}; take attention='einsum'."
            )
        if self.pool == "distilled":
            unfit = {
                "registers": self.registers < 1,
                "pre_logits": self.pre_logits,
                "final_norm": self.final_norm == "pooled",
            }
            for name, wrong in unfit.items():
                if wrong:
                    raise errors.UserError(
                        f"pool='distilled' has two heads, on the class token and on "
                        f"the first register: {name}={getattr(self, name)!r} does "
                        "not fit it."
                    )
        if self.block == "axial":
            unfit = {
                "pool": self.pool not in ("mean", "map"),
                "registers": self.registers > 0,
                "class_token": self.has_class_token,
                "posemb": self.posemb == "relative",
                "attention_mask": self.attention_mask != "none",
            }
            for name, wrong in unfit.items():
                if wrong:
                    raise errors.UserError(
                        f"block='axial' works on a grid of patches: {name}="
                        f"{getattr(self, name)!r} does not fit it; "
                        "take pool='mean' and no tokens beside the patches."
                    )

    def _check_rope(self) -> None:
        """Raises `UserError` for what does not fit rotary positions."""
        default = {f.name: f.default for f in dataclasses.fields(self)}
        wanted = (
            ("rope_base", ("dinov3", "eva02", "axial", "mixed")),
            ("rope_grid", ("eva02",)),
        )
        for name, kinds in wanted:
            value = getattr(self, name)
            if value != default[name] and self.rope not in kinds:
                raise errors.UserError(
                    f"{name}={value} changes nothing with rope={self.rope!r}; leave it "
                    f"at {default[name]}, or take rope={' or '.join(map(repr, kinds))}."
                )
        if self.rope == "none":
            return
        if self.rope_base <= 1:
            raise errors.UserError(f"rope_base={self.rope_base} must be above 1.")
        if self.head_width % 4:
            raise errors.UserError(
                f"rope={self.rope!r} turns pairs of two axes: it needs heads of a "
                f"width that 4 divides, not {self.width} / {self.heads} = "
                f"{self.head_width}."
            )
        if self.block == "axial":
            raise errors.UserError(
                f"rope={self.rope!r} turns all patches of an image at once; "
                "block='axial' has lines of them: take block='standard'."
            )

    def _check_patch_dropout(self) -> None:
        """Raises `UserError` where a block counts on every patch in its place."""
        unfit = {
            "posemb_at": self.posemb != "none" and self.posemb_at != "stem",
            "rope": self.rope != "none",
            "attention_mask": self.attention_mask != "none",
            "block": self.block != "standard",
            "pool": self.pool == "none",
            "patch_outputs": self.patch_outputs > 0,
        }
        for name, wrong in unfit.items():
            if self.patch_dropout and wrong:
                raise errors.UserError(
                    f"patch_dropout={self.patch_dropout} leaves blocks some of the "
                    f"patches: {name}={getattr(self, name)!r} wants all of them."
                )

    def _check_image(self) -> None:
        features = self.feature_size
        valid = self.crop == "valid" and min(self.grid) > 0
        if valid or all(f % p == 0 for f, p in zip(features, self.patch)):
            return
        near = []
        for size, patch in zip(self.image_size, self.patch):
            stride = patch * self.resnet_stride
            low = size // stride * stride
            near.append([s for s in (low, low + stride) if s])
        sizes = ", ".join(f"{h}x{w}" for h, w in zip(near[0], near[1]))
        if len(near[0]) != len(near[1]):
            sizes = f"{near[0][-1]}x{near[1][-1]}"
        cells = ""
        if self.resnet is not None:
            cells = f" of the ResNet's {size_text(features)} features"
        raise errors.UserError(
            f"image_size={size_text(self.image_size)} is not a whole number of "
            f"{size_text(self.patch)} patches{cells}."
            f"\nSizes near it that are: {sizes}. Or crop='valid': the rest at the "
            "bottom and right is not seen."
        )
