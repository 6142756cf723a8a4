"""Four notebooks to read and to run, and the command that runs them all."""
