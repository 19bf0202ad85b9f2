"""Checkpoints of the original PyTorch programs: in, out, and into ready-to-call objects."""
