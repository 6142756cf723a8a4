"""Files of weights: what is in them, and which of it is the network."""
