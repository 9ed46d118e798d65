"""What libraries print that says nothing to whoever runs a command."""

import sys
from typing import Any


def unraisable(error: Any) -> None:
    """Prints what Python's threads cannot raise, but for what is known.

    TensorStore's threads tell orbax's loop, closed at the first file that could not be
    written, of all the others.
    """
    if "Event loop is closed" not in str(error.exc_value):
        sys.__unraisablehook__(error)
