"""Contract of what follows a run while it trains, such as a page that says how far it is."""

from __future__ import annotations

from mvae_jax.objective import Phase


class Observer:
    """Follows the phases of a run; this one keeps nothing, and knows of nothing that comes after a phase.

    Its functions are called on all hosts. None of them changes what is computed.
    """

    def compiled(self, phase: Phase, flops: float | None) -> None:
        """A phase is compiled; called from another thread.

        Args:
            phase: the phase, which may begin much later.
            flops: floating-point operations of one of its steps; None where XLA does not say it.
        """

    def compiling(self, phase: Phase, step: int) -> None:
        """A phase waits for the compiler; not called of one that is compiled while another trains.

        Args:
            phase: the phase.
            step: steps of the run that are done.
        """

    def started(self, phase: Phase, step: int) -> None:
        """A phase begins, or goes on.

        Args:
            phase: the phase.
            step: steps of the run that are done.
        """

    def later(self, phase: Phase, step: int, step_seconds: float) -> float:
        """Seconds that the run will take after the end of a phase, for the time that is left; called every few seconds.

        Args:
            phase: the phase that trains.
            step: steps of the run that are done.
            step_seconds: measured time of a step of the phase.
        """
        return 0.0
