"""One file for each experiment or figure of the paper, and training."""
