"""Images inside of files that hold many: gzip archives, and tables."""
