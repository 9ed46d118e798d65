"""Many devices: the mesh, where arrays live on it, and what chips can do."""
