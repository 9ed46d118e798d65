"""Data: datasets by name, random-access sources, transforms, loaders."""
