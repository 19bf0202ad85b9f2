"""From a config to its parts: environment, agents, hyperparameters, and what a run has trained.

The only place below the stages that reads configs; stages, planner, viewer and benchmarks build
everything through it.
"""
