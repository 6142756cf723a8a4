"""Images, where they come from, their labels, and drawn scenes."""
