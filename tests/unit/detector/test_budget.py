import threading

import pytest
from clip_deepfake.budget import Refusals, Room, refuse_excess
from clip_deepfake.card import Limits

LIMITS = Limits(max_pixels=10, max_request_pixels=40, max_batch_pixels=100)


def refused(requests: list[list[int]]) -> list[list[int]]:
    """Which images of each request are refused."""
    found: list[Refusals] = refuse_excess(requests, LIMITS)
    return [[at for at, refusal in enumerate(row) if refusal is not None] for row in found]


def test_what_exceeds_a_requests_budget_is_refused_with_the_sum() -> None:
    (refusals,) = refuse_excess([[10, 10, 10, 10, 1, 0]], LIMITS)
    assert [refusal is None for refusal in refusals] == [True] * 4 + [False, True]
    assert "would hold 41 pixels, over the limit of 40" in str(refusals[4])
    assert refusals[4] is not None
    assert (refusals[4].code, refusals[4].status) == ("image_too_large", 413)


def test_a_smaller_image_behind_one_that_was_refused_is_judged() -> None:
    assert refused([[30, 11, 10, 1, 0]]) == [[1, 3]]


def test_a_single_image_depends_on_no_others() -> None:
    greedy = [[10] * 32 for _ in range(8)]
    assert refused([[10], *greedy, [10]])[0] == []
    assert refused([*greedy, [10]])[-1] == []
    assert refused([[99], [99], [99]]) == [[], [], []]


def test_the_smaller_requests_have_their_part_of_a_batch_first() -> None:
    greedy, modest = [10] * 32, [5, 5, 5]
    found = refused([greedy, greedy, greedy, modest, greedy])
    assert found[3] == []
    taken = [32 - len(row) for row in (*found[:3], found[4])]
    # The four have 100 - 15 between them, none more than 40.
    assert sum(taken) == 8
    assert max(taken) <= 4


def test_a_batchs_refusal_has_its_sum() -> None:
    limits = Limits(max_pixels=10, max_request_pixels=40, max_batch_pixels=50)
    (_, _, (*_, last)) = refuse_excess([[10], [10], [10, 10, 10, 10]], limits)
    assert "answered together would hold 60 pixels, over the limit of 50" in str(last)


@pytest.mark.parametrize("requests", [[], [[]], [[], [10], []]])
def test_requests_without_images_take_nothing(requests: list[list[int]]) -> None:
    assert refused(requests) == [[] for _ in requests]


@pytest.mark.parametrize(("threads", "together"), [(1, 10), (4, 10), (8, 20), (32, 80)])
def test_threads_hold_no_more_pixels_than_there_is_room_for(threads: int, together: int) -> None:
    room, lock, held = Room(10, threads), threading.Lock(), [0]
    most, full = 0, threading.Event()

    def hold(pixels: int) -> None:
        nonlocal most
        with room.holding(pixels):
            with lock:
                held[0] += pixels
                most = max(most, held[0])
                if most >= together:
                    full.set()
            # All that there is room for is held at the same time at some moment.
            assert full.wait(10)
            with lock:
                held[0] -= pixels

    running = [threading.Thread(target=hold, args=(5,)) for _ in range(32)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join(10)
    assert most == together


def test_an_image_larger_than_the_room_is_alone_in_it() -> None:
    room = Room(10, 1)
    with room.holding(99):
        entered = threading.Event()
        other = threading.Thread(target=lambda: room.holding(1).__enter__() or entered.set())
        other.start()
        assert not entered.wait(0.05)
    assert entered.wait(10)
    other.join()


def test_a_failure_gives_the_room_back() -> None:
    room = Room(10, 1)
    with pytest.raises(MemoryError), room.holding(10):
        raise MemoryError
    with room.holding(10):
        pass
