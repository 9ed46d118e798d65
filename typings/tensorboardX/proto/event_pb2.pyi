"""Messages that protobuf makes when they are imported."""

from typing import Any

def __getattr__(name: str) -> Any: ...
