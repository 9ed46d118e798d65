"""Recipes: `get_config()` functions over `configs.base`."""
