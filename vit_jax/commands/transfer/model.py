"""Says what a checkpoint's model is called: `python -m ... CHECKPOINT`.

A process of its own: the command that starts runs shall have neither JAX, whose threads
are no company for a fork, nor the accelerator.
"""

import subprocess
import sys

from vit_jax import cli, errors


def of(checkpoint: str) -> str:
    """Returns the name of a checkpoint's model, as recipes call it.

    Raises:
        UserError: it is none, or cannot be read.
    """
    call = [sys.executable, "-m", __name__, "--", checkpoint]
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    if done.returncode:
        said = done.stderr.strip().rpartition("error: ")[2]
        raise errors.UserError(said or f"{checkpoint}: exit code {done.returncode}")
    return done.stdout.splitlines()[-1]


def _main(argv: list[str]) -> int:
    from vit_jax.weights import pretrained

    print(pretrained.describe(argv[1]).architecture.name)
    return errors.EXIT_DONE


if __name__ == "__main__":
    cli.run(_main)
