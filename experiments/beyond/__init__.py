"""What the paper could not say in numbers: `python -m experiments.beyond`."""
