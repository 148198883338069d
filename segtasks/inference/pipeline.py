"""Rows through a model: decode ahead in threads, predict in this thread, encode behind in threads. Order is kept, queues are bounded.

A `DataFault` of one row becomes that row's outcome, and its neighbours go on. Every other exception is weather or our own fault:
it ends the iteration.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from segtasks.errors import DataFault
from segtasks.inference.predictor import Prediction, Predictor, Prepared

R = TypeVar("R")
O = TypeVar("O")  # noqa: E741 - rows in, O out
Image = NDArray[np.uint8]


def predict_rows(
    rows: Iterable[R],
    predictor: Predictor,
    decode: Callable[[R], Image],
    encode: Callable[[R, Prediction | DataFault], O],
    threads: int = 1,
) -> Iterator[O]:
    """One output a row, in the rows' order.

    `decode(row)` gives uint8 RGB HxWx3 or raises `DataFault`; `encode(row, outcome)` makes the output of a prediction or of such a
    fault. Both run in `threads` threads. At most about three batches of rows are held at once.
    """
    source = iter(rows)
    lookahead = 2 * predictor.batch_size + threads
    ahead: deque[tuple[R, Future[Prepared | DataFault]]] = deque()
    behind: deque[Future[O]] = deque()

    def prepare(row: R) -> Prepared | DataFault:
        try:
            return predictor.prepare(decode(row))
        except DataFault as fault:
            return fault

    pool = ThreadPoolExecutor(threads, thread_name_prefix="segtasks-rows")
    try:
        while True:
            for row in source:
                ahead.append((row, pool.submit(prepare, row)))
                if len(ahead) >= lookahead:
                    break
            if not ahead:
                break
            for row, outcome in _predict_batch(ahead, predictor):
                behind.append(pool.submit(encode, row, outcome))
            while len(behind) > predictor.batch_size:
                yield behind.popleft().result()
        while behind:
            yield behind.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _predict_batch(
    ahead: deque[tuple[R, Future[Prepared | DataFault]]], predictor: Predictor
) -> Iterator[tuple[R, Prediction | DataFault]]:
    """Take rows until a batch of decoded images is full, and give their outcomes in order."""
    taken: list[tuple[R, Prepared | DataFault]] = []
    good: list[Prepared] = []
    while ahead and len(good) < predictor.batch_size:
        row, future = ahead.popleft()
        outcome = future.result()
        taken.append((row, outcome))
        if isinstance(outcome, Prepared):
            good.append(outcome)
    predictions = iter(predictor.predict_prepared(good))
    for row, outcome in taken:
        yield row, outcome if isinstance(outcome, DataFault) else next(predictions)
