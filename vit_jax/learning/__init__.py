"""What training does with a batch: objectives, the step, the optimizer."""
