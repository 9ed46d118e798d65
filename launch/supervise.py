"""`python launch/supervise.py -- COMMAND ...`: `vit_jax supervise` from a checkout.

Beside it the other scripts find what they share with it, installed or not.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from vit_jax.commands.supervise import (
    RETRY,
    Command,
    add_options,
    main,
    outcome,
    run,
    split,
)

__all__ = ["RETRY", "Command", "add_options", "main", "outcome", "run", "split"]

if __name__ == "__main__":
    sys.exit(main())
