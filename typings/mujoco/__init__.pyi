# mujoco's classes live in a C extension that pyright cannot see into.
from typing import Any

def __getattr__(name: str) -> Any: ...
