"""What a run needs before it runs: memory, collectives, FLOPs, time and price.

`python -m vit_jax.plan` is the command. `compile_step` is the trainer's: it compiles a
run's step and refuses one that its devices cannot hold.
"""

from vit_jax.planning.fit import compile_step, describe, out_of_memory
from vit_jax.planning.footprint import Memory
from vit_jax.planning.footprint import analyzed as memory

__all__ = ["Memory", "compile_step", "describe", "memory", "out_of_memory"]
