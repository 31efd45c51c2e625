"""Results of measures as plain numbers."""

from __future__ import annotations

import dataclasses
from typing import Any


class Result:
    """Base of a measure's frozen dataclass."""

    def to_dict(self) -> dict[str, Any]:
        """Nested dicts and sequences of plain numbers and strings, ready for JSON."""
        return dataclasses.asdict(self)  # type: ignore[call-overload]
