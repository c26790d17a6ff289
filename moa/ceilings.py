"""What the machine can do at most, by loops written as LLVM text: multiply-adds, bfloat16 dot products, reading.

No compiler is needed: the project's own backend builds the text, and its own workers run it.
"""

from __future__ import annotations

import ctypes
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moa.backends.llvm import Target, host
from moa.backends.llvm_build import Built, emitted, load
from moa.backends.worker import run

CHAINS = 16  # independent accumulators: more than latency times throughput, and they fit the registers
PROBE_S = 0.3e-3
WARM_S = 0.7e-3  # wide units and the second core need some time to come up to speed
READ_CHUNK_BYTES = 1 << 18
LINE_BYTES = 64

PEAK = """
DECLARE
define void @peak(ptr %args, i64 %first, i64 %last, ptr %space) #0 {
entry:
  %rounds = load i64, ptr %args, align 8
  br label %item
item:
  %w = phi i64 [ %first, %entry ], [ %w1, %done ]
  %some = icmp slt i64 %w, %last
  br i1 %some, label %loop, label %end
loop:
  %k = phi i64 [ 0, %item ], [ %k1, %loop ]
PHIS
STEPS
  %k1 = add i64 %k, 1
  %more = icmp slt i64 %k1, %rounds
  br i1 %more, label %loop, label %done
done:
SUMS
  store volatile VECTOR %sLAST, ptr %space, align 64
  %w1 = add i64 %w, 1
  br label %item
end:
  ret void
}
attributes #0 = { nounwind }
"""

READ = """
define void @read(ptr %args, i64 %first, i64 %last, ptr %space) #0 {
entry:
  %base = load ptr, ptr %args, align 8
  %size.at = getelementptr i64, ptr %args, i64 1
  %size = load i64, ptr %size.at, align 8
  %from = mul i64 %first, CHUNK
  %whole = mul i64 %last, CHUNK
  %short = icmp slt i64 %whole, %size
  %to = select i1 %short, i64 %whole, i64 %size
  br label %head
head:
  %some = icmp slt i64 %from, %to
  br i1 %some, label %round, label %end
round:
  %r = phi i64 [ 0, %head ], [ %r1, %turn ]
CARRIED
  br label %loop
loop:
  %at = phi i64 [ %from, %round ], [ %at1, %loop ]
PHIS
STEPS
  %at1 = add i64 %at, STEP
  %more = icmp slt i64 %at1, %to
  br i1 %more, label %loop, label %turn
turn:
  %r1 = add i64 %r, 1
  %again = icmp slt i64 %r1, ROUNDS
  br i1 %again, label %round, label %done
done:
SUMS
  store volatile <8 x i64> %sLAST, ptr %space, align 64
  br label %end
end:
  ret void
}
attributes #0 = { nounwind }
"""


def has_bf16_dot(target: Target) -> bool:
    """Whether the processor multiplies pairs of bfloat16 and adds them in one instruction."""
    return "+avx512bf16" in target.features.split(",")


def peak_text(dtype: str, target: Target) -> tuple[str, int]:
    """A module whose `peak` runs args[0] rounds of CHAINS multiply-adds an item, and the flops of one of them."""
    if dtype == "bfloat16" and has_bf16_dot(target):
        vector, name, operands = "<16 x float>", "llvm.x86.avx512bf16.dpbf16ps.512", "<32 x bfloat>"
        one = "<" + ", ".join(["bfloat 1.0"] * 32) + ">"
        call = f"call {vector} @{name}({vector} %a#, {operands} {one}, {operands} {one})"
        declare, flops = f"declare {vector} @{name}({vector}, {operands}, {operands})", 64
        zero = vector
    else:
        element = "double" if dtype == "float64" else "float"
        width = target.width("f64" if dtype == "float64" else "f32")
        vector = f"<{width} x {element}>"
        suffix = f"v{width}f{64 if dtype == 'float64' else 32}"
        half = "<" + ", ".join([f"{element} 0.5"] * width) + ">"
        call = f"call {vector} @llvm.fma.{suffix}({vector} %a#, {vector} {half}, {vector} {half})"
        declare, flops = f"declare {vector} @llvm.fma.{suffix}({vector}, {vector}, {vector})", 2 * width
        zero = vector
    chains = range(CHAINS)
    phis = "\n".join(f"  %a{c} = phi {vector} [ zeroinitializer, %item ], [ %b{c}, %loop ]" for c in chains)
    steps = "\n".join(f"  %b{c} = {call.replace('#', str(c))}" for c in chains)
    sums = [f"  %s1 = fadd {zero} %b0, %b1"]
    sums += [f"  %s{c} = fadd {zero} %s{c - 1}, %b{c}" for c in range(2, CHAINS)]
    words = {
        "DECLARE": declare, "PHIS": phis, "STEPS": steps, "SUMS": "\n".join(sums), "VECTOR": vector,
        "LAST": str(CHAINS - 1),
    }  # fmt: skip
    return filled(PEAK, words, target), flops


def read_text(target: Target, chunk_bytes: int = READ_CHUNK_BYTES, rounds: int = 1) -> str:
    """A module whose `read` reads the chunks `first` to `last` of args[0], which has args[1] bytes, so many times."""
    lines, kind = range(8), "<8 x i64>"
    carried = "\n".join(f"  %c{c} = phi {kind} [ zeroinitializer, %head ], [ %b{c}, %turn ]" for c in lines)
    phis = "\n".join(f"  %a{c} = phi {kind} [ %c{c}, %round ], [ %b{c}, %loop ]" for c in lines)
    steps = "\n".join(
        f"  %o{c} = add i64 %at, {LINE_BYTES * c}\n  %p{c} = getelementptr i8, ptr %base, i64 %o{c}\n"
        f"  %v{c} = load {kind}, ptr %p{c}, align 1\n  %b{c} = xor {kind} %a{c}, %v{c}"
        for c in lines
    )
    sums = [f"  %s1 = xor {kind} %b0, %b1"] + [f"  %s{c} = xor {kind} %s{c - 1}, %b{c}" for c in lines[2:]]
    words = {
        "PHIS": phis, "STEPS": steps, "SUMS": "\n".join(sums), "LAST": "7", "CHUNK": str(chunk_bytes),
        "STEP": str(8 * LINE_BYTES), "CARRIED": carried, "ROUNDS": str(rounds),
    }  # fmt: skip
    return filled(READ, words, target)


def filled(text: str, words: dict[str, str], target: Target) -> str:
    for word, value in words.items():
        text = text.replace(word, value)
    return f'target triple = "{target.triple}"\n' + text


class Ceiling:
    """The rate of multiply-adds of the machine now, with so many threads: flop/s."""

    def __init__(self, dtype: str, threads: int) -> None:
        target = host()
        text, flops = peak_text(dtype, target)
        self.built = load(emitted(text, target), ("peak",), target)
        self.threads = threads
        self.room = np.zeros(threads * LINE_BYTES + LINE_BYTES, np.uint8)
        self.packed = (ctypes.c_int64 * 1)(1000)
        self.flops = float(flops * CHAINS * threads)
        self.rates: list[float] = []
        self.run()
        for _ in range(3):  # the first run finds the frequency low
            self.packed[0] = max(int(self.packed[0] * PROBE_S / self.run()), 100)
        self.rate()  # there is a peak from the start

    def run(self) -> float:
        """The seconds that one probe takes."""
        base = -(-self.room.ctypes.data // LINE_BYTES) * LINE_BYTES
        start = time.perf_counter()
        run(self.built.phases[0], ctypes.addressof(self.packed), self.threads, self.threads, base, LINE_BYTES, 1)
        return time.perf_counter() - start

    def rate(self) -> float:
        """The rate of one probe, after some time at work."""
        start = time.perf_counter()
        while time.perf_counter() - start < WARM_S:
            self.run()
        rate = self.flops * self.packed[0] / self.run()
        self.rates.append(rate)
        return rate

    @property
    def peak(self) -> float:
        """The rate that one probe in twenty exceeds."""
        return float(np.percentile(self.rates, 95))

    @property
    def usual(self) -> float:
        """The rate that one probe in four exceeds: what an undisturbed moment is measured against."""
        return float(np.percentile(self.rates, 75))


@dataclass(slots=True)
class Reader:
    """Reads arrays once, all of their bytes, with so many threads."""

    arrays: list[NDArray[Any]]
    threads: int
    built: Built = field(init=False)
    room: NDArray[np.uint8] = field(init=False)

    def __post_init__(self) -> None:
        target = host()
        self.built = load(emitted(read_text(target), target), ("read",), target)
        self.room = np.zeros(self.threads * LINE_BYTES + LINE_BYTES, np.uint8)

    @property
    def bytes(self) -> int:
        return sum(self.whole(a) for a in self.arrays)

    def whole(self, array: NDArray[Any]) -> int:
        """The bytes of the array that full steps of the loop read."""
        step = 8 * LINE_BYTES
        return array.nbytes // step * step

    def __call__(self) -> None:
        base = -(-self.room.ctypes.data // LINE_BYTES) * LINE_BYTES
        for a in self.arrays:
            size = self.whole(a)
            packed = (ctypes.c_int64 * 2)(a.ctypes.data, size)
            chunks = -(-size // READ_CHUNK_BYTES)
            run(self.built.phases[0], ctypes.addressof(packed), chunks, self.threads, base, LINE_BYTES, 1)
