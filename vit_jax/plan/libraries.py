"""Calls of NVIDIA's libraries in a program: products, attention, convolutions."""

import re

from vit_jax.plan import hlo

_TARGET = re.compile(r'custom_call_target="([^"]*)"')
_PRODUCT = re.compile(r"__cublas\$(?:lt\$matmul|gemm)")
_ATTENTION = re.compile(r"__cudnn\$fmha\w*?(Backward(?:F8)?)?$")
# By what is computed: the positions of image and kernel among the operands, and of the
# result, None for the call's own.
CONVOLUTIONS: dict[str, tuple[int | None, int | None, int | None]] = {
    "__cudnn$convForward": (0, 1, None),
    "__cudnn$convBiasActivationForward": (0, 1, None),
    "__cudnn$convBackwardInput": (None, 1, 0),
    "__cudnn$convBackwardFilter": (0, None, 1),
}
_CONTRACTED = re.compile(r'"lhs_contracting_dimensions":\s*\[([^\]]*)\]')
_LOGITS = re.compile(
    r'"intermediate_tensor_shape":\s*\{.*?"dimensions":\s*\[([^\]]*)\]'
)


def target(instruction: hlo.Instruction) -> str:
    """Returns what a custom call calls; "" for other instructions."""
    found = _TARGET.search(instruction.attributes)
    return found[1] if found and instruction.opcode == "custom-call" else ""


def is_library(instruction: hlo.Instruction) -> bool:
    """Returns whether an instruction calls a library, which may want a workspace."""
    return target(instruction).startswith(("__cublas$", "__cudnn$"))


def macs(instruction: hlo.Instruction, computation: hlo.Computation) -> int:
    """Returns the multiply-adds of a product or of attention; 0 for all else.

    Attention of n tokens takes 2 n^2 e of them for each image and head forward, and
    two and a half times as many backward, where the logits are computed again.
    """
    called = target(instruction)
    if _PRODUCT.match(called):
        shape = computation.instructions[instruction.operands[0]].arrays[0].shape
        total = instruction.arrays[0].elements
        contracted = _CONTRACTED.search(instruction.attributes)
        for dimension in _numbers(contracted[1]) if contracted else ():
            total *= shape[dimension]
        return total
    attention = _ATTENTION.match(called)
    logits = _LOGITS.search(instruction.attributes) if attention else None
    if attention is None or logits is None:
        return 0
    total = computation.instructions[instruction.operands[0]].arrays[0].shape[-1]
    for length in _numbers(logits[1]):
        total *= length
    return 5 * total if attention[1] else 2 * total


def _numbers(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", text)]
