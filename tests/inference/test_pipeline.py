import threading

import numpy as np
import pytest

from segtasks.errors import DataFault, DecodeError, StorageError
from segtasks.inference.pipeline import predict_rows
from segtasks.inference.predictor import Predictor
from tests.inference.test_predictor import loaded
from tests.training.world import scene


@pytest.fixture(scope="module")
def predictor():
    return Predictor(loaded(), batch_size=3)


def decode(number):
    if number % 5 == 2:
        raise DecodeError(f"row {number} is no image")
    return scene(number)[0]


def encode(number, outcome):
    return number, str(outcome) if isinstance(outcome, DataFault) else outcome.mask


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("rows", [0, 1, 3, 17])
def test_every_row_comes_out_once_in_order_with_its_own_mask(predictor, rows, threads):
    found = list(predict_rows(range(rows), predictor, decode, encode, threads))
    assert [number for number, _ in found] == list(range(rows))
    for number, outcome in found:
        if number % 5 == 2:
            assert outcome == f"row {number} is no image"
        else:
            assert (outcome == predictor.predict([scene(number)[0]])[0].mask).mean() > 0.999


def test_rows_that_are_all_faulty_come_out_as_faults(predictor):
    found = list(predict_rows([2, 7, 12, 17, 22], predictor, decode, encode))
    assert [outcome for _, outcome in found] == [f"row {number} is no image" for number in (2, 7, 12, 17, 22)]


@pytest.mark.parametrize("error", [StorageError("the disk is gone"), MemoryError("too much"), ValueError("our own fault")])
def test_what_is_no_fault_of_the_data_ends_the_iteration(predictor, error):
    def failing(number):
        if number == 4:
            raise error
        return decode(number)

    with pytest.raises(type(error), match=str(error)):
        list(predict_rows(range(20), predictor, failing, encode, 2))


def test_an_error_in_encode_ends_the_iteration(predictor):
    def failing(number, outcome):
        raise StorageError("cannot encode")

    with pytest.raises(StorageError, match="cannot encode"):
        list(predict_rows(range(4), predictor, decode, failing))


def test_rows_are_taken_only_a_few_batches_ahead(predictor):
    taken = []

    def rows():
        for number in range(100):
            taken.append(number)
            yield number

    outputs = predict_rows(rows(), predictor, decode, encode, threads=1)
    for number in range(10):
        next(outputs)
        assert len(taken) - number <= 2 * 3 + 1 + 2 * 3 + 3
    outputs.close()
    assert len(taken) < 30


def test_closing_early_leaves_no_thread_behind(predictor):
    outputs = predict_rows(range(50), predictor, decode, encode, threads=2)
    next(outputs)
    outputs.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("segtasks-rows")]


def test_decode_and_encode_do_not_run_in_the_models_thread(predictor):
    seen = set()

    def watched(number):
        seen.add(threading.current_thread().name)
        return decode(number)

    assert len(list(predict_rows(range(5), predictor, watched, encode))) == 5
    assert all(name.startswith("segtasks-rows") for name in seen)


def test_masks_are_handed_over_as_arrays_of_the_images_size(predictor):
    [(_, mask)] = predict_rows([0], predictor, decode, encode)
    assert mask.shape == (24, 32)
    assert mask.dtype == np.uint8
