"""Environments of MuJoCo Playground as tasks: `config.task = "playground/PandaPickCube"`."""
