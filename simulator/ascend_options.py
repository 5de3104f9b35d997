"""What vLLM's plugin for Ascend takes beside vLLM's own flags: its ``--additional-config``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import ConfigDict

from hardware.errors import ScenarioError
from hardware.strict import Strict

if TYPE_CHECKING:
    from hardware.catalogue import Chip
    from perfdb.layout import Layout

__all__ = ["AdditionalConfig", "AscendSchedulerConfig", "check_ascend"]


class AscendSchedulerConfig(Strict):
    """The plugin's own scheduler.

    Attributes
    ----------
    enabled
        A step computes whole prompts or decodes, prompts first. The plugin (0.10 and 0.11) turns it on by itself for
        models of text alone without latent attention, since its kernels are slow where both meet in a step
        (``vllm_ascend/platform.py``); for models with encoders it must be asked for.
    """

    model_config = ConfigDict(strict=True)

    enabled: bool = False


class AdditionalConfig(Strict):
    """What the plugin is told.

    Attributes
    ----------
    ascend_scheduler_config
        Its scheduler.
    """

    model_config = ConfigDict(strict=True)

    ascend_scheduler_config: AscendSchedulerConfig = AscendSchedulerConfig()


def check_ascend(chip: Chip, layout: Layout | None, pool: str, *, live: bool) -> None:
    """Refuse what the plugin's scheduler is not simulated with.

    Raises
    ------
    ScenarioError
        If the chips are no Ascend, an installed vLLM decides, or the instances have attention ranks or pipeline stages.
    """
    key = f"pool.{pool}.engine_options.additional_config"
    if chip.vendor != "huawei":
        raise ScenarioError(f"{key} is of vLLM's plugin for Ascend, but the chip is {chip.name}; leave it out")
    if live:
        raise ScenarioError(f"{key} is of a plugin that the vLLM of 'vllm-live' does not load; leave it out")
    if layout is not None and max(layout.data, layout.pipeline) > 1:
        raise ScenarioError(
            f"{key}.ascend_scheduler_config is simulated on one rank and one stage, but this pool has data_parallel = "
            f"{layout.data} and pipeline_parallel = {layout.pipeline}"
        )
