from profiler.scheduling.work_queue import LEAST_TAKEN, WorkQueue

NAMES = [f"job {number}" for number in range(30)]


def test_alone_a_board_takes_jobs_in_their_order() -> None:
    queue = WorkQueue(NAMES)
    assert queue.take(20) == NAMES[:20]
    assert queue.take(20) == NAMES[20:]
    assert queue.take(20) == []


def test_several_boards_share_what_is_left() -> None:
    queue = WorkQueue(NAMES)
    assert len(queue.take(20, boards=3)) == 10
    assert len(queue.take(20, boards=3)) == 7
    assert len(queue.take(20, boards=3)) == LEAST_TAKEN


def test_what_a_lost_board_held_goes_to_the_front() -> None:
    queue = WorkQueue(NAMES[:4])
    taken = queue.take(2)
    queue.put_back(taken[1:])
    assert queue.names == (NAMES[1], NAMES[2], NAMES[3])
    queue.put([NAMES[0], NAMES[1]])
    assert queue.names == (NAMES[1], NAMES[2], NAMES[3], NAMES[0])
    queue.remove([NAMES[2]])
    assert len(queue) == 3
