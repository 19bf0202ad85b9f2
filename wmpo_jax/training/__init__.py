"""How the agents are trained: train states, optimizers, the supervised loop, the GRPO trainer.

One file per training holds its hyperparameters, its batches and its compiled step.
"""
