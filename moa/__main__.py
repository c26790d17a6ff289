"""The entry of the command: also while what it needs is still being imported, an interrupt is no traceback."""

from __future__ import annotations

import sys


def main() -> None:
    try:
        from moa.cli import main as command

        command()
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
