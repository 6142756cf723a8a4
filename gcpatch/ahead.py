"""Work done ahead of its use, in threads."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def ahead(
    function: Callable[[Item], Result], items: Iterable[Item], threads: int
) -> Generator[tuple[Item, Future[Result]], None, None]:
    """Calls a function of each item, up to two calls a thread before they are asked for.

    Yields:
        Each item, in order, with the future of its result, which may hold an exception.
    """
    pool = ThreadPoolExecutor(threads, "ahead")
    begun: deque[tuple[Item, Future[Result]]] = deque()
    try:
        for item in items:
            begun.append((item, pool.submit(function, item)))
            if len(begun) > 2 * threads:
                yield begun.popleft()
        while begun:
            yield begun.popleft()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
