"""How fast this machine runs the programs of the stages, and how fast PyTorch runs the same."""
