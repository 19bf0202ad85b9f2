"""A memory of what was read last, limited in bytes and shared by threads."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import Any


class ByteCache:
    """Values that have `nbytes`; the latest that fit into a budget are kept.

    A value that several threads ask for at once is loaded once. One that is larger than the whole
    budget is kept until the next is loaded.
    """

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self._held: OrderedDict[Hashable, Future[Any]] = OrderedDict()
        self._sizes: dict[Hashable, int] = {}
        self._lock = threading.Lock()

    @property
    def nbytes(self) -> int:
        """Of what is kept now."""
        return sum(self._sizes.values())

    def get(self, key: Hashable, load: Callable[[], Any]) -> Any:
        """The value of `key`; what `load` raises is raised here and not remembered."""
        with self._lock:
            future = self._held.get(key)
            is_first = future is None
            if future is None:
                future = self._held[key] = Future()
            self._held.move_to_end(key)
        if is_first:
            self._load(key, future, load)
        return future.result()

    def _load(self, key: Hashable, future: Future[Any], load: Callable[[], Any]) -> None:
        try:
            value = load()
        except BaseException as error:
            with self._lock:
                self._held.pop(key, None)
            future.set_exception(error)
            return
        with self._lock:
            self._sizes[key] = value.nbytes
            while self.nbytes > self._budget and len(self._sizes) > 1:
                oldest = next(held for held in self._held if held in self._sizes)
                del self._held[oldest], self._sizes[oldest]
        future.set_result(value)
