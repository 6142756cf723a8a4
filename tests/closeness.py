"""Whether two arrays are the same but for rounding.

What a network computes is a sum of products: it is rounded relative to the largest of them, not
to what is left of them. So a small value beside large ones may be off by more than a share of
itself, and by how much depends on the processor.
"""

import numpy as np


def assert_close(found, wanted, rtol=1e-5):
    """The largest difference is at most `rtol` of the largest value that is wanted."""
    wanted = np.asarray(wanted)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=rtol * np.abs(wanted).max())
