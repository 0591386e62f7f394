from profiler.scheduling.work_queue import LEAST_TAKEN, WorkQueue

NAMES = [f"job {number}" for number in range(30)]


def test_alone_a_board_takes_jobs_in_their_order() -> None:
    queue = WorkQueue(NAMES, {})
    assert queue.take("a", 20) == NAMES[:20]
    assert queue.take("a", 20) == NAMES[20:]
    assert queue.take("a", 20) == []


def test_a_board_takes_first_what_it_measured_before_then_what_nobody_did() -> None:
    homes = {NAMES[0]: "b", NAMES[1]: "a", NAMES[2]: "b", NAMES[3]: "a"}
    queue = WorkQueue(NAMES[:6], homes)
    assert queue.take("a", 4) == [NAMES[1], NAMES[3], NAMES[4], NAMES[5]]
    # Nothing of its own is left to it: it helps the others out.
    assert queue.take("a", 4) == [NAMES[0], NAMES[2]]


def test_several_boards_share_what_is_left() -> None:
    queue = WorkQueue(NAMES, {})
    assert len(queue.take("a", 20, boards=3)) == 10
    assert len(queue.take("b", 20, boards=3)) == 7
    assert len(queue.take("c", 20, boards=3)) == LEAST_TAKEN


def test_what_a_lost_board_held_goes_to_the_front() -> None:
    queue = WorkQueue(NAMES[:4], {})
    taken = queue.take("a", 2)
    queue.put_back(taken[1:])
    assert queue.names == (NAMES[1], NAMES[2], NAMES[3])
    queue.put([NAMES[0], NAMES[1]])
    assert queue.names == (NAMES[1], NAMES[2], NAMES[3], NAMES[0])
    queue.remove([NAMES[2]])
    assert len(queue) == 3
