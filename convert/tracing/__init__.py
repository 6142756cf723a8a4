"""PyTorch modules as graphs of operations, traced by torch.export."""
