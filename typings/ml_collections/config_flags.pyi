"""What is used of the flags of ml_collections."""

from absl import flags
from ml_collections import ConfigDict

def DEFINE_config_file(
    name: str, default: str | None = None, help_string: str = ..., *, lock_config: bool
) -> flags.FlagHolder[ConfigDict]: ...
def get_config_filename(flag: flags.Flag) -> str: ...
