"""Caches as LLVM text: what the traced kernel calls beside each load and store.

Two hierarchies see every line: fully associative LRU caches (a list of lines, most recent first) and set-associative
ones (an age for each slot). Both write back and allocate on writes; what is known of a line stands in tables indexed by
its number, so nothing is hashed. Records of 64-bit words, made by `moa.measure.hierarchy`:

    context   regions, their number, nearest full level, nearest level of sets, last line * 2 + written, strays, shift
    region    begin, end, what is added to a line's number, loads, stores, bytes
    full      capacity, held, next, previous, states, reads, writes, farther level, end of the list, owners
    sets      ways, clock, slot of a line + 1, line of a slot + 1, ages, dirty, reads, writes, farther level, owners,
              set of a line, sets

A line that a nearer cache writes back is whole: where it is absent it is placed without being read.
"""

from __future__ import annotations

import re

from moa.backends.llvm import Target

CONTEXT_WORDS, REGION_WORDS, FULL_WORDS, SETS_WORDS = 7, 6, 10, 12
LOAD, STORE, WRITTEN_BACK = 0, 1, 2
ENTRIES = ("moa_caches_enter", "moa_caches_replay", "moa_caches_flush", "moa_caches_flush_sets")

ACCESS = """
@context = internal global ptr null, align 8

define void @moa_caches_enter(ptr %context) #0 {
  store ptr %context, ptr @context, align 8
  ret void
}

define void @moa_access(ptr %at, i64 %bytes, i1 zeroext %write) #0 {
entry:
  %none = icmp sle i64 %bytes, 0
  br i1 %none, label %end, label %some
some:
  %c = load ptr, ptr @context, align 8
  %a = ptrtoint ptr %at to i64
  %beyond = add i64 %a, %bytes
  %regions = address %c 0
  %count = word %c 1
  br label %look
look:
  %k = phi i64 [ 0, %some ], [ %k1, %on ]
  %r = phi ptr [ %regions, %some ], [ %r1, %on ]
  %left = icmp ult i64 %k, %count
  br i1 %left, label %test, label %stray
test:
  %low = word %r 0
  %high = word %r 1
  %above = icmp uge i64 %a, %low
  %below = icmp ule i64 %beyond, %high
  %inside = and i1 %above, %below
  br i1 %inside, label %found, label %on
on:
  %k1 = add i64 %k, 1
  %r1 = getelementptr i64, ptr %r, i64 6
  br label %look
stray:
  bump %c 5
  br label %end
found:
  %kind = zext i1 %write to i64
  %column = add i64 %kind, 3
  bump %r %column
  %bytes.before = word %r 5
  %bytes.after = add i64 %bytes.before, %bytes
  putword %bytes.after %r 5
  %delta = word %r 2
  %shift = word %c 6
  %first.real = lshr i64 %a, %shift
  %first = add i64 %first.real, %delta
  %last.byte = sub i64 %beyond, 1
  %last.real = lshr i64 %last.byte, %shift
  %last = add i64 %last.real, %delta
  br label %lines
lines:
  %line = phi i64 [ %first, %found ], [ %line1, %next ]
  %seen = word %c 4
  %twice = shl i64 %line, 1
  %key = or i64 %twice, %kind
  %written = or i64 %twice, 1
  %same = icmp eq i64 %seen, %key
  %dirty = icmp eq i64 %seen, %written
  %skip = or i1 %same, %dirty
  br i1 %skip, label %next, label %touch
touch:
  putword %key %c 4
  %full = address %c 2
  call fastcc void @touch(ptr %full, i64 %line, i64 %kind)
  %sets = address %c 3
  %absent = icmp eq ptr %sets, null
  br i1 %absent, label %next, label %replay
replay:
  call fastcc void @touch_sets(ptr %sets, i64 %line, i64 %kind)
  br label %next
next:
  %line1 = add i64 %line, 1
  %more = icmp ule i64 %line1, %last
  br i1 %more, label %lines, label %end
end:
  ret void
}

; accesses in memory: address, bytes, 1 for a store
define void @moa_caches_replay(ptr %trace, i64 %count) #0 {
entry:
  %some = icmp sgt i64 %count, 0
  br i1 %some, label %one, label %end
one:
  %k = phi i64 [ 0, %entry ], [ %k1, %one ]
  %t = phi ptr [ %trace, %entry ], [ %t1, %one ]
  %at = address %t 0
  %bytes = word %t 1
  %kind = word %t 2
  %write = trunc i64 %kind to i1
  call void @moa_access(ptr %at, i64 %bytes, i1 zeroext %write)
  %k1 = add i64 %k, 1
  %t1 = getelementptr i64, ptr %t, i64 3
  %more = icmp slt i64 %k1, %count
  br i1 %more, label %one, label %end
end:
  ret void
}
"""

FULL = """
; places a line before all others
define internal fastcc void @front(ptr %v, i64 %line) #0 {
  %next = address %v 2
  %previous = address %v 3
  %end = word %v 8
  %head = number %next %end
  putnumber %head %next %line
  putnumber %end %previous %line
  putnumber %line %previous %head
  putnumber %line %next %end
  ret void
}

; drops the line that was used least recently
define internal fastcc void @drop(ptr %v) #0 {
entry:
  %next = address %v 2
  %previous = address %v 3
  %states = address %v 4
  %end = word %v 8
  %line = number %previous %end
  %before = number %previous %line
  putnumber %before %previous %end
  putnumber %end %next %before
  %state = byte %states %line
  putbyte 0 %states %line
  %dirty = icmp eq i64 %state, 3
  br i1 %dirty, label %write, label %done
write:
  %owners = address %v 9
  %owner = byte %owners %line
  %writes = address %v 6
  bump %writes %owner
  %farther = address %v 7
  %last = icmp eq ptr %farther, null
  br i1 %last, label %done, label %on
on:
  call fastcc void @touch(ptr %farther, i64 %line, i64 2)
  br label %done
done:
  ret void
}

define internal fastcc void @touch(ptr %v, i64 %line, i64 %kind) #0 {
entry:
  %states = address %v 4
  %state = byte %states %line
  %write = icmp ne i64 %kind, 0
  %mark = select i1 %write, i64 3, i64 1
  %new = or i64 %state, %mark
  putbyte %new %states %line
  %held = icmp ne i64 %state, 0
  br i1 %held, label %hit, label %miss
hit:
  %next = address %v 2
  %end = word %v 8
  %head = number %next %end
  %first = icmp eq i64 %head, %line
  br i1 %first, label %done, label %move
move:
  %previous = address %v 3
  %after = number %next %line
  %before = number %previous %line
  putnumber %after %next %before
  putnumber %before %previous %after
  br label %place
miss:
  %capacity = word %v 0
  %count = word %v 1
  %full = icmp uge i64 %count, %capacity
  br i1 %full, label %evict, label %room
evict:
  call fastcc void @drop(ptr %v)
  br label %fetch
room:
  %count1 = add i64 %count, 1
  putword %count1 %v 1
  br label %fetch
fetch:
  %whole = icmp eq i64 %kind, 2
  br i1 %whole, label %place, label %read
read:
  %owners = address %v 9
  %owner = byte %owners %line
  %reads = address %v 5
  bump %reads %owner
  %farther = address %v 7
  %last = icmp eq ptr %farther, null
  br i1 %last, label %place, label %on
on:
  call fastcc void @touch(ptr %farther, i64 %line, i64 0)
  br label %place
place:
  call fastcc void @front(ptr %v, i64 %line)
  br label %done
done:
  ret void
}

; drops all lines of a level
define void @moa_caches_flush(ptr %v) #0 {
entry:
  br label %look
look:
  %count = word %v 1
  %some = icmp ne i64 %count, 0
  br i1 %some, label %one, label %end
one:
  call fastcc void @drop(ptr %v)
  %count1 = sub i64 %count, 1
  putword %count1 %v 1
  br label %look
end:
  ret void
}
"""

SETS = """
; empties a slot
define internal fastcc void @vacate(ptr %v, i64 %slot) #0 {
entry:
  %tags = address %v 3
  %tag = number %tags %slot
  %empty = icmp eq i64 %tag, 0
  br i1 %empty, label %done, label %held
held:
  %line = sub i64 %tag, 1
  %slots = address %v 2
  putnumber 0 %slots %line
  putnumber 0 %tags %slot
  %ages = address %v 4
  %age = getelementptr i64, ptr %ages, i64 %slot
  store i64 0, ptr %age, align 8
  %marks = address %v 5
  %mark = byte %marks %slot
  putbyte 0 %marks %slot
  %dirty = icmp ne i64 %mark, 0
  br i1 %dirty, label %write, label %done
write:
  %owners = address %v 9
  %owner = byte %owners %line
  %writes = address %v 7
  bump %writes %owner
  %farther = address %v 8
  %last = icmp eq ptr %farther, null
  br i1 %last, label %done, label %on
on:
  call fastcc void @touch_sets(ptr %farther, i64 %line, i64 2)
  br label %done
done:
  ret void
}

; the slot of a set that was used least recently; an empty one first if %from is 0, last if it is 1
define internal fastcc i64 @oldest(ptr %v, i64 %set, i64 %from) #0 {
entry:
  %ways = word %v 0
  %ages = address %v 4
  %start = mul i64 %set, %ways
  %stop = add i64 %start, %ways
  br label %scan
scan:
  %slot = phi i64 [ %start, %entry ], [ %slot1, %scan ]
  %best = phi i64 [ %start, %entry ], [ %best1, %scan ]
  %least = phi i64 [ -1, %entry ], [ %least1, %scan ]
  %age.at = getelementptr i64, ptr %ages, i64 %slot
  %raw = load i64, ptr %age.at, align 8
  %age = sub i64 %raw, %from
  %older = icmp ult i64 %age, %least
  %best1 = select i1 %older, i64 %slot, i64 %best
  %least1 = select i1 %older, i64 %age, i64 %least
  %slot1 = add i64 %slot, 1
  %more = icmp ult i64 %slot1, %stop
  br i1 %more, label %scan, label %end
end:
  ret i64 %best1
}

define internal fastcc void @touch_sets(ptr %v, i64 %line, i64 %kind) #0 {
entry:
  %slots = address %v 2
  %found = number %slots %line
  %held = icmp ne i64 %found, 0
  br i1 %held, label %hit, label %miss
hit:
  %mine = sub i64 %found, 1
  br label %mark
miss:
  %set.of = address %v 10
  %set = number %set.of %line
  %oldest = call fastcc i64 @oldest(ptr %v, i64 %set, i64 0)
  call fastcc void @vacate(ptr %v, i64 %oldest)
  %whole = icmp eq i64 %kind, 2
  br i1 %whole, label %place, label %read
read:
  %owners = address %v 9
  %owner = byte %owners %line
  %reads = address %v 6
  bump %reads %owner
  %farther = address %v 8
  %last = icmp eq ptr %farther, null
  br i1 %last, label %place, label %on
on:
  call fastcc void @touch_sets(ptr %farther, i64 %line, i64 0)
  br label %place
place:
  %tags = address %v 3
  %tag = add i64 %line, 1
  putnumber %tag %tags %oldest
  %number = add i64 %oldest, 1
  putnumber %number %slots %line
  br label %mark
mark:
  %used = phi i64 [ %mine, %hit ], [ %oldest, %place ]
  bump %v 1
  %clock = word %v 1
  %all = address %v 4
  %used.at = getelementptr i64, ptr %all, i64 %used
  store i64 %clock, ptr %used.at, align 8
  %write = icmp ne i64 %kind, 0
  br i1 %write, label %dirty, label %done
dirty:
  %marks = address %v 5
  putbyte 1 %marks %used
  br label %done
done:
  ret void
}

; empties all sets of a level, what was used least recently first
define void @moa_caches_flush_sets(ptr %v) #0 {
entry:
  %count = word %v 11
  %ways = word %v 0
  br label %sets
sets:
  %set = phi i64 [ 0, %entry ], [ %set1, %on ]
  %left = icmp ult i64 %set, %count
  br i1 %left, label %one, label %end
one:
  %k = phi i64 [ 0, %sets ], [ %k1, %one ]
  %slot = call fastcc i64 @oldest(ptr %v, i64 %set, i64 1)
  call fastcc void @vacate(ptr %v, i64 %slot)
  %k1 = add i64 %k, 1
  %more = icmp ult i64 %k1, %ways
  br i1 %more, label %one, label %on
on:
  %set1 = add i64 %set, 1
  br label %sets
end:
  ret void
}
"""

SHORT = re.compile(
    r"^  (?:(%\S+) = )?(word|address|number|byte|putword|putnumber|putbyte|bump) (.*)$",
    re.MULTILINE,
)
"""What stands for a load or store at a place: word and address of 64 bits, number of 32, byte of 8."""


def print_caches(target: Target) -> str:
    """The module; its entries are ENTRIES and `moa_access`."""
    places = iter(range(1_000_000))
    text = SHORT.sub(lambda m: _written_out(m[1], m[2], m[3].split(), next(places)), ACCESS + FULL + SETS)
    return f'target triple = "{target.triple}"\n{text}\nattributes #0 = {{ nounwind }}\n'


def _written_out(result: str | None, word: str, args: list[str], k: int) -> str:
    *value, pointer, index = args
    kind = {"number": "i32", "byte": "i8"}.get(word.removeprefix("put"), "i64")
    place, narrow = f"%at{k}", f"%narrow{k}"
    lines = [f"{place} = getelementptr {kind}, ptr {pointer}, i64 {index}"]
    align = int(kind[1:]) // 8
    match word:
        case "word":
            lines.append(f"{result} = load i64, ptr {place}, align 8")
        case "address":
            lines.append(f"{result} = load ptr, ptr {place}, align 8")
        case "number" | "byte":
            lines += [f"{narrow} = load {kind}, ptr {place}, align {align}", f"{result} = zext {kind} {narrow} to i64"]
        case "putword":
            lines.append(f"store i64 {value[0]}, ptr {place}, align 8")
        case "putnumber" | "putbyte":
            lines += [
                f"{narrow} = trunc i64 {value[0]} to {kind}",
                f"store {kind} {narrow}, ptr {place}, align {align}",
            ]
        case "bump":
            more = f"%more{k}"
            lines += [
                f"{narrow} = load i64, ptr {place}, align 8",
                f"{more} = add i64 {narrow}, 1",
                f"store i64 {more}, ptr {place}, align 8",
            ]
    return "\n".join("  " + line for line in lines)
