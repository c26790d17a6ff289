"""The law book of `stream`: the one table that every family of laws enters its laws into."""

from __future__ import annotations

from moa.rewrite import Table

LAWS = Table("stream")
