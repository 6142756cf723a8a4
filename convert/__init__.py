"""Weights between torchvision and gcpatch: the only part of the package that needs PyTorch."""

from gcpatch.errors import UserError


class ConvertError(UserError):
    """A conversion that cannot be done; the message is one line that says why and what to do."""
