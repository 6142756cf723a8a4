"""Pages and pictures of explained images: one map a method, side by side."""
