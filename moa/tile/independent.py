"""Work items are independent: none reads what another one of its phase writes."""

from __future__ import annotations

from collections.abc import Iterator

from moa.normal import Index, loads
from moa.tiles import Phase, statements


def foreign(phase: Phase) -> Iterator[str]:
    """What is read of arrays that the phase writes, at other places than those of the work item itself."""
    tiles = {t.name for t in phase.tiles}
    written: dict[str, list[Index]] = {}
    for s in statements(phase.body):
        name, index = s.target.args
        if name not in tiles:
            written.setdefault(name, []).append(index)
    for s in statements(phase.body):
        for name, index in loads(s.value):
            for own in written.get(name, ()):
                if any(p.as_var() in phase.items and p != q for p, q in zip(own, index, strict=True)):
                    yield f"{name}[{', '.join(map(str, index))}]"
