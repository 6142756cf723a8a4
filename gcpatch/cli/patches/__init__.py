"""The verbs that make patches for many images, and lay them over others."""
