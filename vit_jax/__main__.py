"""`python -m vit_jax` says what there is to run."""

from vit_jax import cli

COMMANDS = ("main", "evaluate", "predict", "convert", "models", "plan")

if __name__ == "__main__":
    cli.no_command("vit_jax", "python -m vit_jax." + "|".join(COMMANDS) + " --help")
