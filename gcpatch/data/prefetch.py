"""Work done ahead of its use, in threads."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def prefetch(
    function: Callable[[Item], Result], items: Iterable[Item], threads: int
) -> Generator[tuple[Item, Future[Result]], None, None]:
    """Calls a function of each item, up to two calls a thread before they are asked for.

    Yields:
        Each item, in order, with the future of its result, which may hold an exception.
    """
    pool = ThreadPoolExecutor(threads, "ahead")
    in_progress: deque[tuple[Item, Future[Result]]] = deque()
    try:
        for item in items:
            in_progress.append((item, pool.submit(function, item)))
            if len(in_progress) > 2 * threads:
                yield in_progress.popleft()
        while in_progress:
            yield in_progress.popleft()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
