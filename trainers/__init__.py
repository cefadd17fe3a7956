"""Training: rewards per turn, credit per turn, batches, losses and the engines that use them (layer 3)."""
