"""A network beside its module in PyTorch: twins, comparisons, certificates."""
