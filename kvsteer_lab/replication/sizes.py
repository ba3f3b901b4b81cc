"""How large a replication is: pairs, cells, questions, controls, and where replies are cut."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

LIMITS = {"gsm8k": 256, "arc_challenge": 128, "commonsense_qa": 96, "piqa": 96}
"""Where replies are cut, by task; `OTHER_LIMIT` for the rest."""
OTHER_LIMIT = 96
GROWING = ("test", "control_test", "uncached_test", "measured")
"""What a later run in the same folder may enlarge: its questions come after those that are there."""


@dataclass(frozen=True)
class Sizes:
    """How large a replication is.

    Questions always come in the same order and in blocks, so a run with a larger `test`, `control_test` or
    `uncached_test` goes on where a smaller one ended. All else has to stay as it is.

    Args:
        pairs, shots: of the contrastive set.
        cells: that each tuned method gets; a multiple of 3, at least 9.
        dev: development questions to tune on.
        test: test questions of every method.
        controls: random vectors, at the method's own coefficients and again at equal divergence.
        control_test: test questions of the random vectors; `None`: as many as `test`.
        uncached_test: test questions of the scope that computes every token anew; it costs a hundred times as much.
        measured: test questions along whose baseline replies the divergence is measured.
        block: questions asked together, the unit that a killed run loses; `test` and the like are rounded up to it.
        max_new_tokens: where replies are cut; `None`: the task's (`LIMITS`).

    Raises:
        ValueError: a size below its least, or cells that three variants don't divide.

    Example:
        >>> import kvsteer_lab as kv
        >>> kv.replication.Sizes(test=50, block=20).blocks("test", available=188)
        [(0, 20), (20, 40), (40, 60)]
    """

    pairs: int = 100
    shots: int = 3
    cells: int = 12
    dev: int = 40
    test: int = 100
    controls: int = 20
    control_test: int | None = None
    uncached_test: int = 20
    measured: int = 40
    block: int = 20
    max_new_tokens: int | None = None

    def __post_init__(self) -> None:
        least = dict(pairs=2, shots=1, cells=9, dev=2, test=1, controls=0, uncached_test=0, measured=0, block=1)
        for name, number in least.items():
            if not isinstance(getattr(self, name), int) or getattr(self, name) < number:
                raise ValueError(
                    f"{name}={getattr(self, name)!r} is too small for a replication; pass at least {number}."
                )
        if self.cells % 3:
            raise ValueError(
                f"cells={self.cells} can't be shared by the three variants of a method; pass a multiple of 3."
            )

    def blocks(self, name: str, available: int) -> list[tuple[int, int]]:
        """The blocks of questions, as first and last plus one, that a size asks for.

        Args:
            name: `"test"`, `"control_test"` or `"uncached_test"`.
            available: how many questions the split has.
        """
        wanted = getattr(self, name)
        wanted = min(self.test if wanted is None else wanted, available)
        return [(start, min(start + self.block, available)) for start in range(0, wanted, self.block)]

    def limit(self, task: str) -> int:
        """Where replies to a task are cut, in tokens.

        Args:
            task: its name.
        """
        return self.max_new_tokens or LIMITS.get(task, OTHER_LIMIT)

    def fixed(self) -> dict[str, Any]:
        """What a later run in the same folder can't change."""
        return {f.name: asdict(self)[f.name] for f in fields(self) if f.name not in GROWING}
