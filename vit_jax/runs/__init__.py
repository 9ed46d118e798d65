"""What surrounds a run: its folder, figures, clock, signals and processes."""
