"""States of runs on disk."""
