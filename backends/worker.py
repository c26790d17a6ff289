"""Native worker threads, printed as LLVM text: handing work to a Python thread costs 44 us, to one of these about 2.

A job is seven words: entry, arguments, items, threads, workspace, workspace stride in bytes, chunk. Its items are taken
`chunk` at a time from an atomic counter; thread t, of which the caller is 0, uses workspace + t * stride. Workers are
made when first needed, wait for the next job in a spin of SPINS pauses and then on a condition variable.

One word of state holds (epoch, open, active). The caller writes the job, then opens the next epoch; a worker that sees
it adds itself to `active` by compare-and-swap, or finds the epoch closed again and waits on: a late worker delays
nobody. The caller works too, closes the epoch when no item is left, and waits until `active` is 0.

While one thread runs a job, another caller runs all items of its own job itself. A process made by fork starts a pool
of its own: the pool belongs to a process id. Signals stay with the threads of the caller.
"""

from __future__ import annotations

import atexit
import ctypes
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from moa.backends.llvm import Target, host
from moa.backends.llvm_build import Built, emitted, identity, load
from moa.cache import keep, recalled

SPINS = 2000
MOST_THREADS = 256

SYMBOLS = (
    "pthread_create", "pthread_join", "pthread_sigmask", "pthread_mutex_init", "pthread_mutex_lock",
    "pthread_mutex_unlock", "pthread_cond_init", "pthread_cond_wait", "pthread_cond_signal", "pthread_cond_broadcast",
    "sigfillset", "sched_yield", "getpid",
)  # fmt: skip
"""What the text needs from the process."""

ALONE = """
define internal void @alone(ptr %job) #0 {
  %entry = load ptr, ptr %job, align 8
  %args.at = getelementptr i64, ptr %job, i64 1
  %args = load ptr, ptr %args.at, align 8
  %items.at = getelementptr i64, ptr %job, i64 2
  %items = load i64, ptr %items.at, align 8
  %space.at = getelementptr i64, ptr %job, i64 4
  %space = load ptr, ptr %space.at, align 8
  call void %entry(ptr %args, i64 0, i64 %items, ptr %space)
  ret void
}

define void @moa_run(ptr %jobs, i64 %count) #0 {
entry:
  %some = icmp sgt i64 %count, 0
  br i1 %some, label %next, label %end
next:
  %k = phi i64 [ 0, %entry ], [ %k1, %next ]
  %at = mul i64 %k, 7
  %job = getelementptr i64, ptr %jobs, i64 %at
  call void @RUN(ptr %job)
  %k1 = add i64 %k, 1
  %more = icmp slt i64 %k1, %count
  br i1 %more, label %next, label %end
end:
  ret void
}
"""

POOL = """
@state = internal global i64 0, align 128
@next = internal global i64 0, align 128
@job = internal global [7 x i64] zeroinitializer, align 128
@busy = internal global i32 0, align 128
@owner = internal global i32 0, align 4
@stop = internal global i32 0, align 4
@sleepers = internal global i32 0, align 4
@waiting = internal global i32 0, align 4
@workers = internal global i64 0, align 8
@mutex = internal global [16 x i64] zeroinitializer, align 16
@wake = internal global [16 x i64] zeroinitializer, align 16
@done = internal global [16 x i64] zeroinitializer, align 16
@handles = internal global [MOST x i64] zeroinitializer, align 16

declare i32 @pthread_create(ptr, ptr, ptr, ptr)
declare i32 @pthread_join(i64, ptr)
declare i32 @pthread_sigmask(i32, ptr, ptr)
declare i32 @pthread_mutex_init(ptr, ptr)
declare i32 @pthread_mutex_lock(ptr)
declare i32 @pthread_mutex_unlock(ptr)
declare i32 @pthread_cond_init(ptr, ptr)
declare i32 @pthread_cond_wait(ptr, ptr)
declare i32 @pthread_cond_signal(ptr)
declare i32 @pthread_cond_broadcast(ptr)
declare i32 @sigfillset(ptr)
declare i32 @sched_yield()
declare i32 @getpid()

; takes items of the job until none is left
define internal void @work(ptr %space) #0 {
entry:
  %entry.at = load ptr, ptr @job, align 8
  %args = load ptr, ptr getelementptr (i64, ptr @job, i64 1), align 8
  %items = load i64, ptr getelementptr (i64, ptr @job, i64 2), align 8
  %chunk = load i64, ptr getelementptr (i64, ptr @job, i64 6), align 8
  br label %take
take:
  %first = atomicrmw add ptr @next, i64 %chunk monotonic, align 8
  %some = icmp slt i64 %first, %items
  br i1 %some, label %run, label %end
run:
  %end.full = add i64 %first, %chunk
  %whole = icmp slt i64 %end.full, %items
  %last = select i1 %whole, i64 %end.full, i64 %items
  call void %entry.at(ptr %args, i64 %first, i64 %last, ptr %space)
  br label %take
end:
  ret void
}

define internal ptr @worker(ptr %number) #0 {
entry:
  %t = ptrtoint ptr %number to i64
  br label %wait
wait:
  %seen = phi i64 [ 0, %entry ], [ %seen, %awake ], [ %seen, %join ],
                  [ %epoch, %look ], [ %epoch, %away ], [ %epoch, %tell ]
  br label %spin
spin:
  %n = phi i32 [ 0, %wait ], [ %n1, %pause ]
  %now = load atomic i64, ptr @state acquire, align 8
  %epoch = lshr i64 %now, 32
  %fresh = icmp ne i64 %epoch, %seen
  br i1 %fresh, label %look, label %pause
pause:
  PAUSE
  %n1 = add i32 %n, 1
  %again = icmp slt i32 %n1, SPINS
  br i1 %again, label %spin, label %sleep
sleep:
  %s1 = call i32 @pthread_mutex_lock(ptr @mutex)
  %s2 = atomicrmw add ptr @sleepers, i32 1 seq_cst, align 4
  br label %check
check:
  %stopped = load atomic i32, ptr @stop seq_cst, align 4
  %leave = icmp ne i32 %stopped, 0
  %state = load atomic i64, ptr @state seq_cst, align 8
  %state.epoch = lshr i64 %state, 32
  %state.fresh = icmp ne i64 %state.epoch, %seen
  %up = or i1 %leave, %state.fresh
  br i1 %up, label %awake, label %block
block:
  %b1 = call i32 @pthread_cond_wait(ptr @wake, ptr @mutex)
  br label %check
awake:
  %a1 = atomicrmw sub ptr @sleepers, i32 1 seq_cst, align 4
  %a2 = call i32 @pthread_mutex_unlock(ptr @mutex)
  br i1 %leave, label %end, label %wait
look:
  %open = and i64 %now, 65536
  %is.open = icmp ne i64 %open, 0
  br i1 %is.open, label %join, label %wait
join:
  %with = add i64 %now, 1
  %pair = cmpxchg ptr @state, i64 %now, i64 %with acq_rel acquire, align 8
  %joined = extractvalue { i64, i1 } %pair, 1
  br i1 %joined, label %may, label %wait
may:
  %threads = load i64, ptr getelementptr (i64, ptr @job, i64 3), align 8
  %wanted = icmp slt i64 %t, %threads
  br i1 %wanted, label %run, label %away
run:
  %space = load ptr, ptr getelementptr (i64, ptr @job, i64 4), align 8
  %stride = load i64, ptr getelementptr (i64, ptr @job, i64 5), align 8
  %shift = mul i64 %t, %stride
  %own = getelementptr i8, ptr %space, i64 %shift
  call void @work(ptr %own)
  br label %away
away:
  %before = atomicrmw sub ptr @state, i64 1 seq_cst, align 8
  %low = and i64 %before, 131071
  %is.last = icmp eq i64 %low, 1
  %waits = load atomic i32, ptr @waiting seq_cst, align 4
  %is.waited = icmp ne i32 %waits, 0
  %both = and i1 %is.last, %is.waited
  br i1 %both, label %tell, label %wait
tell:
  %t1 = call i32 @pthread_mutex_lock(ptr @mutex)
  %t2 = call i32 @pthread_cond_signal(ptr @done)
  %t3 = call i32 @pthread_mutex_unlock(ptr @mutex)
  br label %wait
end:
  ret ptr null
}

; the pool becomes one of this process, without workers; false if another thread is doing so
define internal i1 @renew(i32 %pid, i32 %old) #0 {
entry:
  %valid = icmp ne i32 %old, -1
  br i1 %valid, label %try, label %no
try:
  %pair = cmpxchg ptr @owner, i32 %old, i32 -1 acq_rel acquire, align 4
  %won = extractvalue { i32, i1 } %pair, 1
  br i1 %won, label %yes, label %no
yes:
  %y1 = call i32 @pthread_mutex_init(ptr @mutex, ptr null)
  %y2 = call i32 @pthread_cond_init(ptr @wake, ptr null)
  %y3 = call i32 @pthread_cond_init(ptr @done, ptr null)
  store atomic i64 0, ptr @state seq_cst, align 8
  store i64 0, ptr @workers, align 8
  store atomic i32 0, ptr @sleepers seq_cst, align 4
  store atomic i32 0, ptr @waiting seq_cst, align 4
  store atomic i32 0, ptr @stop seq_cst, align 4
  store atomic i32 0, ptr @busy seq_cst, align 4
  store atomic i32 %pid, ptr @owner release, align 4
  ret i1 true
no:
  ret i1 false
}

; makes workers until there are %want, or no more can be made
define internal void @grow(i64 %want) #0 {
entry:
  %all = alloca [16 x i64], align 16
  %old = alloca [16 x i64], align 16
  %e1 = call i32 @sigfillset(ptr %all)
  %e2 = call i32 @pthread_sigmask(i32 SETMASK, ptr %all, ptr %old)
  br label %more
more:
  %have = load i64, ptr @workers, align 8
  %short = icmp slt i64 %have, %want
  br i1 %short, label %make, label %end
make:
  %handle = getelementptr i64, ptr @handles, i64 %have
  %t = add i64 %have, 1
  %number = inttoptr i64 %t to ptr
  %failed = call i32 @pthread_create(ptr %handle, ptr null, ptr @worker, ptr %number)
  %made = icmp eq i32 %failed, 0
  br i1 %made, label %count, label %end
count:
  store i64 %t, ptr @workers, align 8
  br label %more
end:
  %e3 = call i32 @pthread_sigmask(i32 SETMASK, ptr %old, ptr null)
  ret void
}

define internal void @shared(ptr %job) #0 {
entry:
  %items.at = getelementptr i64, ptr %job, i64 2
  %items = load i64, ptr %items.at, align 8
  %threads.at = getelementptr i64, ptr %job, i64 3
  %threads = load i64, ptr %threads.at, align 8
  %chunk.at = getelementptr i64, ptr %job, i64 6
  %chunk = load i64, ptr %chunk.at, align 8
  %few = icmp sle i64 %items, %chunk
  %single = icmp sle i64 %threads, 1
  %small = or i1 %few, %single
  br i1 %small, label %alone, label %process
process:
  %pid = call i32 @getpid()
  %owner = load atomic i32, ptr @owner acquire, align 4
  %ours = icmp eq i32 %pid, %owner
  br i1 %ours, label %claim, label %renew
renew:
  %renewed = call i1 @renew(i32 %pid, i32 %owner)
  br i1 %renewed, label %claim, label %alone
claim:
  %pair = cmpxchg ptr @busy, i32 0, i32 1 acq_rel acquire, align 4
  %claimed = extractvalue { i32, i1 } %pair, 1
  br i1 %claimed, label %staff, label %alone
staff:
  %items.1 = sub i64 %items, 1
  %others = sdiv i64 %items.1, %chunk
  %threads.1 = sub i64 %threads, 1
  %fewer = icmp slt i64 %others, %threads.1
  %useful = select i1 %fewer, i64 %others, i64 %threads.1
  %above = icmp sgt i64 %useful, LIMIT
  %want = select i1 %above, i64 LIMIT, i64 %useful
  %have = load i64, ptr @workers, align 8
  %short = icmp slt i64 %have, %want
  br i1 %short, label %grow, label %publish
grow:
  call void @grow(i64 %want)
  br label %publish
publish:
  call void @llvm.memcpy.p0.p0.i64(ptr align 8 @job, ptr align 8 %job, i64 56, i1 false)
  store atomic i64 0, ptr @next monotonic, align 8
  %old = load atomic i64, ptr @state monotonic, align 8
  %epoch = lshr i64 %old, 32
  %epoch.1 = add i64 %epoch, 1
  %high = shl i64 %epoch.1, 32
  %opened = or i64 %high, 65536
  store atomic i64 %opened, ptr @state seq_cst, align 8
  %asleep = load atomic i32, ptr @sleepers seq_cst, align 4
  %any = icmp ne i32 %asleep, 0
  br i1 %any, label %rouse, label %run
rouse:
  %r1 = call i32 @pthread_mutex_lock(ptr @mutex)
  %r2 = call i32 @pthread_cond_broadcast(ptr @wake)
  %r3 = call i32 @pthread_mutex_unlock(ptr @mutex)
  br label %run
run:
  %space.at = getelementptr i64, ptr %job, i64 4
  %space = load ptr, ptr %space.at, align 8
  call void @work(ptr %space)
  %closed = atomicrmw sub ptr @state, i64 65536 seq_cst, align 8
  br label %spin
spin:
  %n = phi i32 [ 0, %run ], [ %n1, %pause ]
  %now = load atomic i64, ptr @state acquire, align 8
  %active = and i64 %now, 65535
  %none = icmp eq i64 %active, 0
  br i1 %none, label %free, label %pause
pause:
  PAUSE
  %n1 = add i32 %n, 1
  %again = icmp slt i32 %n1, SPINS
  br i1 %again, label %spin, label %wait
wait:
  %w1 = call i32 @pthread_mutex_lock(ptr @mutex)
  store atomic i32 1, ptr @waiting seq_cst, align 4
  br label %check
check:
  %state = load atomic i64, ptr @state seq_cst, align 8
  %left = and i64 %state, 65535
  %over = icmp eq i64 %left, 0
  br i1 %over, label %awake, label %block
block:
  %b1 = call i32 @pthread_cond_wait(ptr @done, ptr @mutex)
  br label %check
awake:
  store atomic i32 0, ptr @waiting seq_cst, align 4
  %a1 = call i32 @pthread_mutex_unlock(ptr @mutex)
  br label %free
free:
  store atomic i32 0, ptr @busy release, align 4
  ret void
alone:
  call void @alone(ptr %job)
  ret void
}

; joins all workers; the next job makes new ones
define void @moa_stop() #0 {
entry:
  %pid = call i32 @getpid()
  %owner = load atomic i32, ptr @owner acquire, align 4
  %ours = icmp eq i32 %pid, %owner
  br i1 %ours, label %claim, label %end
claim:
  %pair = cmpxchg ptr @busy, i32 0, i32 1 acq_rel acquire, align 4
  %claimed = extractvalue { i32, i1 } %pair, 1
  br i1 %claimed, label %stop, label %yield
yield:
  %y1 = call i32 @sched_yield()
  br label %claim
stop:
  %s1 = call i32 @pthread_mutex_lock(ptr @mutex)
  store atomic i32 1, ptr @stop seq_cst, align 4
  %s2 = call i32 @pthread_cond_broadcast(ptr @wake)
  %s3 = call i32 @pthread_mutex_unlock(ptr @mutex)
  br label %more
more:
  %k = phi i64 [ 0, %stop ], [ %k1, %join ]
  %workers = load i64, ptr @workers, align 8
  %left = icmp slt i64 %k, %workers
  br i1 %left, label %join, label %stopped
join:
  %at = getelementptr i64, ptr @handles, i64 %k
  %handle = load i64, ptr %at, align 8
  %j1 = call i32 @pthread_join(i64 %handle, ptr null)
  %k1 = add i64 %k, 1
  br label %more
stopped:
  store i64 0, ptr @workers, align 8
  store atomic i32 0, ptr @stop seq_cst, align 4
  store atomic i32 0, ptr @busy release, align 4
  br label %end
end:
  ret void
}
"""

PAUSES = {"x86_64": "llvm.x86.sse2.pause()", "aarch64": "llvm.aarch64.hint(i32 1)", "arm64": "llvm.aarch64.hint(i32 1)"}


def print_worker(target: Target, pool: bool) -> str:
    """The module; without a pool, `moa_run` runs all items in the caller."""
    head = f'target triple = "{target.triple}"\n'
    if not pool:
        stop = "\ndefine void @moa_stop() #0 {\n  ret void\n}\n"
        return head + ALONE.replace("@RUN", "@alone") + stop + "\nattributes #0 = { nounwind }\n"
    pause = PAUSES.get(target.triple.split("-")[0], "")
    declared = pause.replace("i32 1", "i32")
    words = {
        "PAUSE": f"call void @{pause}" if pause else "; no pause",
        "SPINS": str(SPINS),
        "SETMASK": "3" if "apple" in target.triple or "darwin" in target.triple else "2",
        "LIMIT": str(MOST_THREADS - 1),
        "MOST": str(MOST_THREADS),
    }
    text = POOL
    for word, value in words.items():
        text = text.replace(word, value)
    declarations = f"declare void @{declared}\n" if pause else ""
    return head + ALONE.replace("@RUN", "@shared") + text + declarations + "\nattributes #0 = { nounwind }\n"


@dataclass(frozen=True, slots=True)
class Pool:
    """run(address of jobs, their number): jobs of seven 64-bit words, one after the other. The GIL is released.

    address  that of `run`
    """

    run: Callable[[int, int], None]
    address: int
    stop: Callable[[], None]
    built: Built = field(repr=False)


@cache
def pool() -> Pool:
    """The workers of this process; stopped at exit. Where threads are missing, the caller does all the work."""
    import llvmlite.binding as llvm

    target = host()
    found = all(llvm.address_of_symbol(s) for s in SYMBOLS)
    text = print_worker(target, found)
    parts = ("worker", identity(), text)
    code = recalled(*parts)
    if code is None:
        code = emitted(text, target)
        keep(code, *parts)
    built = load(code, ("moa_run", "moa_stop"), target)
    run: Any = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64)(built.phases[0])
    stop: Any = ctypes.CFUNCTYPE(None)(built.phases[1])
    atexit.register(stop)
    return Pool(run, built.phases[0], stop, built)


def run(
    entry: int, args: int, items: int, threads: int, workspace: int = 0, stride_bytes: int = 0, chunk: int = 1
) -> None:
    """Runs entry(args, first, last, workspace of the thread) on all items, by at most `threads` threads.

    entry, args, workspace are addresses; the workspace holds `threads` times stride_bytes.
    """
    assert items >= 0 and chunk >= 1, f"{items} items by {chunk}"
    job = (ctypes.c_int64 * 7)(entry, args, items, threads, workspace, stride_bytes, chunk)
    pool().run(ctypes.addressof(job), 1)
