"""Native workers: every item once, whatever the threads, the callers and the process."""

from __future__ import annotations

import os
import threading
from dataclasses import replace

import numpy as np
import pytest
from loops_by_hand import Hand, array, packed

from moa.backends import worker
from moa.backends.llvm import host
from moa.backends.llvm_build import Built, build, load, machine, parse
from moa.loops import Arg, Const, Name


def counting() -> Built:
    """out[item] += rounds; the first word of the workspace += 1: a lost update shows a workspace in two hands."""
    h = Hand("f64", 2)
    out, rounds = h.arg("p", 0), h.arg("i", 1)

    def body(item: Name) -> tuple[Arg, ...]:
        (total,) = h.loop(0, rounds, (Const(0.0, "f"),), lambda k, s: (h.op("f", "fadd", s, Const(1.0, "f")),))
        for place, index, value in ((out, item, total), (h.params[3], Const(0, "i"), Const(1.0, "f"))):
            before = h.op("f", "load", place, index, attrs=("f64", False))
            h.do("store", place, index, h.op("f", "fadd", before, value), attrs=("f64", False))
        return ()

    h.loop(h.params[1], h.params[2], (), body)
    return build(h.loops())


COUNTING = counting()
STRIDE = 128


def count(items: int, rounds: int, threads: int, chunk: int = 1) -> np.ndarray:
    """The items done by each thread; every item was done once."""
    out, space = array(np.zeros(items), np.float64), array(np.zeros((max(threads, 1), STRIDE // 8)), np.float64)
    args = packed(["out", rounds], {"out": out})
    worker.run(COUNTING.phases[0], args.ctypes.data, items, threads, space.ctypes.data, STRIDE, chunk)
    assert (out == rounds).all(), out
    assert space[:, 0].sum() == items
    return space[:, 0]


@pytest.mark.parametrize("threads", [0, 1, 2, 3, 4])
def test_every_item_is_done_once(threads: int) -> None:
    for items, chunk in ((0, 1), (1, 1), (2, 1), (50, 1), (50, 7), (50, 50), (1000, 3)):
        count(items, 20, threads, chunk)


def test_workers_take_part() -> None:
    assert any(np.count_nonzero(count(400, 20000, 4)) > 1 for _ in range(100))


def test_the_caller_waits_for_the_items_of_others() -> None:
    for _ in range(100):
        count(3, 100000, 2)


def test_several_jobs_run_in_order() -> None:
    """The second job adds to what the first one wrote."""
    out = array(np.zeros(64), np.float64)
    space = array(np.zeros((4, STRIDE // 8)), np.float64)
    args = packed(["out", 5], {"out": out})
    job = [COUNTING.phases[0], args.ctypes.data, 64, 4, space.ctypes.data, STRIDE, 1]
    jobs = np.array([job, job, job], np.int64)
    worker.pool().run(jobs.ctypes.data, 3)
    assert (out == 15).all()


def test_callers_from_many_threads() -> None:
    failures: list[BaseException] = []

    def caller() -> None:
        try:
            for _ in range(500):
                count(40, 200, 4)
        except BaseException as e:
            failures.append(e)

    threads = [threading.Thread(target=caller) for _ in range(5)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not failures


def test_a_stopped_pool_starts_again() -> None:
    for _ in range(20):
        count(100, 200, 3)
        worker.pool().stop()
    worker.pool().stop()


def in_child(work: object) -> int:
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            work()  # type: ignore[operator]
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_process_has_its_own_pool() -> None:
    count(400, 200, 4)

    def work() -> None:
        for _ in range(50):
            count(400, 200, 4)
        assert in_child(lambda: count(400, 200, 2)) == 0
        worker.pool().stop()

    assert in_child(work) == 0
    count(400, 200, 4)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_fork_while_a_job_runs() -> None:
    """The child finds the pool busy and its lock perhaps taken, and starts anew."""
    done = threading.Event()

    def caller() -> None:
        while not done.is_set():
            count(40, 2000, 4)

    thread = threading.Thread(target=caller)
    thread.start()
    try:
        assert [in_child(lambda: count(100, 2000, 3)) for _ in range(20)] == [0] * 20
    finally:
        done.set()
        thread.join()


def test_without_threads_the_caller_does_all() -> None:
    text = worker.print_worker(host(), False)
    assert "pthread" not in text
    alone = load(machine(host()).emit_object(parse(text)), ("moa_run", "moa_stop"), host())
    parse(worker.print_worker(host(), True))
    assert len(alone.phases) == 2


def test_the_text_for_other_systems_is_valid() -> None:
    for triple in ("aarch64-unknown-linux-gnu", "arm64-apple-darwin", "riscv64-unknown-linux-gnu"):
        text = worker.print_worker(replace(host(), triple=triple), True)
        parse(text)
        assert ("hint" in text) == ("a" in triple[:2])
