from wmpo_jax.envs import quiet  # noqa: F401  # before any module imports MJX
