"""The attack (paper, algorithm 1): one image, a batch, any region, one patch for many."""
