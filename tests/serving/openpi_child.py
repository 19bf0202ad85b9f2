"""Runs in the environment of openpi-client: what a robot would do; prints what it saw as JSON."""

import json
import sys
from typing import Any

import numpy as np


def main(port: str) -> None:
    """Two observations, a wrong one between them, and a chunk played action by action."""
    from openpi_client import (  # pyright: ignore[reportMissingImports]
        action_chunk_broker,
        websocket_client_policy,
    )

    client: Any = websocket_client_policy.WebsocketClientPolicy("127.0.0.1", int(port))
    metadata = client.get_server_metadata()
    frame = np.full((metadata["image_size"], metadata["image_size"], 3), 7, np.uint8)
    seen = {
        "observation/image": frame,
        "observation/wrist_image": frame,
        "observation/state": np.zeros(8),
        "prompt": "be gray",
    }
    first = client.infer(seen)
    try:
        client.infer({"prompt": "be gray"})
        refusal = ""
    except RuntimeError as error:
        refusal = str(error)
    broker = action_chunk_broker.ActionChunkBroker(client, action_horizon=metadata["chunk"])
    steps = [broker.infer(seen)["actions"].tolist() for _ in range(metadata["chunk"])]
    timing = sorted(first["server_timing"])
    found = {"metadata": metadata, "refusal": refusal, "steps": steps, "timing": timing}
    print(json.dumps(found | {"first": first["actions"].tolist()}))


if __name__ == "__main__":
    main(*sys.argv[1:])
