"""The stages of a pipeline, each of which computes its layers for one micro-batch after the other."""

from __future__ import annotations

__all__ = ["PipelineStages"]


class PipelineStages:
    """When each stage has computed all that has entered the pipeline.

    Parameters
    ----------
    stages
        How many there are, each with as many layers; the last one samples, too.
    """

    def __init__(self, stages: int) -> None:
        self._free_ns = [0] * stages

    def enter(self, now_ns: int, kernels_ns: int, sampling_ns: int) -> int:
        """Let a micro-batch enter, and return when it leaves the last stage, ns.

        Parameters
        ----------
        now_ns
            When it may enter the first one; those that entered before stay before it on every stage.
        kernels_ns
            Time it takes on all stages together.
        sampling_ns
            How much of that is sampling, after the last layer.
        """
        free_ns, stages = self._free_ns, len(self._free_ns)
        layers_ns = kernels_ns - sampling_ns
        for stage in range(stages):
            now_ns = max(now_ns, free_ns[stage]) + layers_ns * (stage + 1) // stages - layers_ns * stage // stages
            if stage == stages - 1:
                now_ns += sampling_ns
            free_ns[stage] = now_ns
        return now_ns
