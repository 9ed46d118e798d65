"""Models as files of other tools: what is in them runs without vit_jax."""
