"""Configurations: recipes and flags, the checks of their values, durations."""
