"""How fast the attack is, beside PyTorch: `python -m experiments.bench`."""
