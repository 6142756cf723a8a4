"""The paper's figures and its table, each in a file of its own, from the records of real runs."""
