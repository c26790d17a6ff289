"""moa: a compiler for attention written as array expressions, in the Mathematics of Arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from moa.text import MoaError

if TYPE_CHECKING:
    from moa.kernel import Kernel, compile

__all__ = ["Kernel", "MoaError", "compile"]


def __getattr__(name: str) -> Any:
    """The compiler is imported when it is first used: `import moa` stays quick."""
    if name in ("compile", "Kernel"):
        import moa.kernel

        return getattr(moa.kernel, name)
    raise AttributeError(f"module 'moa' has no attribute {name!r}")
