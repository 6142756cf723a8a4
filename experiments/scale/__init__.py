"""Campaigns at scale: what they survive, and what they cost."""
