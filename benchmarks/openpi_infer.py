"""Asks a policy server for actions through openpi's own client, in that client's environment.

    PYTHON_OF_OPENPI_CLIENT benchmarks/openpi_infer.py ADDRESS PORT CLIENTS

reads rounds from stdin and answers each on stdout: a line of JSON with `prompt` and `size`, then so
many bytes of an .npy of frames uint8 [B, H, W, 3]; back come a line with `size` and an .npy of
actions [B, K, A]. Frames are shared out among so many connections. The first line of stdout is the
server's metadata.
"""

import io
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np


def main(address: str, port: str, clients: str) -> None:
    """Until stdin ends."""
    from openpi_client import websocket_client_policy  # pyright: ignore[reportMissingImports]

    policies = [
        websocket_client_policy.WebsocketClientPolicy(address, int(port))
        for _ in range(int(clients))
    ]
    out = sys.stdout.buffer
    out.write(json.dumps(policies[0].get_server_metadata()).encode() + b"\n")
    out.flush()
    with ThreadPoolExecutor(len(policies)) as threads:
        while line := sys.stdin.buffer.readline():
            asked = json.loads(line)
            frames_BHWC = np.load(io.BytesIO(sys.stdin.buffer.read(asked["size"])))
            prompt = asked["prompt"]

            def share(number: int, frames: np.ndarray = frames_BHWC, prompt: str = prompt) -> Any:
                seen = frames[number :: len(policies)]
                asked = [{"observation/image": frame, "prompt": prompt} for frame in seen]
                return [policies[number].infer(one)["actions"] for one in asked]

            shares = list(threads.map(share, range(len(policies))))
            count = len(policies)
            rows = [shares[row % count][row // count] for row in range(len(frames_BHWC))]
            packed = io.BytesIO()
            np.save(packed, np.stack(rows))
            out.write(json.dumps({"size": packed.tell()}).encode() + b"\n" + packed.getvalue())
            out.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
