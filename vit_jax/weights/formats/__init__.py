"""Containers of named tensors: a module each."""
