"""Evaluates a policy that is served elsewhere with openpi's websocket protocol (docs/serve.md).

    python -m wmpo_jax.main --config=configs/remote.py --config.remote.address=ws://127.0.0.1:8000
    python -m wmpo_jax.main --config=configs/remote.py:libero --config.remote.address=...

Nothing is trained. A token, where the server wants one, is in the environment variable WMPO_TOKEN.
"""

from ml_collections import ConfigDict

from configs import libero, tiny


def get_config(variant: str = "") -> ConfigDict:
    """`variant`: "" (the tabletop) or "libero" (10 tasks x 50 stored initial states)."""
    if variant not in ("", "libero"):
        raise ValueError("choose libero or none")
    config = libero.get_config("evaluate_imported") if variant else tiny.get_config()
    config.remote = ConfigDict(
        {
            "address": "",  # ws://host:port
            "environment": config.task,  # where it acts: press, lift, libero_spatial, ...
        }
    )
    config.task = "remote"
    return config
