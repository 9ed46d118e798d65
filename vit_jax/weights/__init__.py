"""Weights of other codes and of ours: found, read, adapted to a model, written."""
