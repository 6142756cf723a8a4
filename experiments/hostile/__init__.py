"""Hostile inputs, what must be answered, and what answering takes."""
