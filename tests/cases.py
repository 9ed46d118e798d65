"""Small inputs of other people, with what is right for them: tests/golden/cases."""

import json
from pathlib import Path
from typing import Any

CASES = Path(__file__).parent / "golden" / "cases"


def expected(name: str) -> dict[str, Any]:
    """The right values of a case."""
    return json.loads((CASES / name / "expected.json").read_text())
