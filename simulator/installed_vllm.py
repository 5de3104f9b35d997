"""The installed vLLM's own V1 scheduler, without a GPU, a model or a server.

The ``vllm`` package is imported when the first engine is made, and of it only the scheduler, its KV cache manager and
the configuration they read. Packages for pictures, sound and video, which vLLM imports where it finds them and which
must fit the build of torch to the letter, are hidden from it.

Tokens are numbers made of what they belong to and of their position, so that vLLM's hashes of blocks are equal exactly
where the prefixes of two requests are.
"""

from __future__ import annotations

import logging
import os
import sys
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from hardware.errors import ScenarioError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from simulator.request import Request

__all__ = ["CoreOptions", "ScheduledStep", "VllmCore", "installed_version"]

#: What vLLM can do without here, and cannot import where it does not fit the installed torch.
_HIDDEN = ("torchvision", "torchaudio", "torchcodec")

#: Bits for the position of a token.
_POSITION_BITS = 32


def installed_version() -> str:
    """Return the version of the installed vLLM.

    Raises
    ------
    ScenarioError
        If none is installed.
    """
    try:
        return version("vllm")
    except PackageNotFoundError:
        raise ScenarioError(
            "the engine 'vllm-live' runs the scheduler of an installed vLLM, and there is none here; install it as "
            "docs/conformance.md says, or use the engine 'vllm'"
        ) from None


@cache
def _vllm() -> SimpleNamespace:
    """Return what is used of vLLM."""
    found = installed_version()
    # It talks of kernels and platforms that are not needed here.
    os.environ.setdefault("VLLM_CONFIGURE_LOGGING", "0")
    logging.getLogger("vllm").setLevel(logging.ERROR)
    for name in _HIDDEN:
        if name not in sys.modules:
            # So the import system marks what cannot be imported.
            sys.modules[name] = None  # type: ignore[assignment]
    try:
        return _imported()
    except Exception as error:
        sentence = " ".join(str(error).split())
        raise ScenarioError(
            f"the installed vllm {found} cannot be imported ({type(error).__name__}: {sentence}); docs/conformance.md "
            "says which packages its scheduler needs"
        ) from error


def _imported() -> SimpleNamespace:
    import torch  # noqa: PLC0415 - seconds, and not everybody has it
    from vllm import config  # noqa: PLC0415
    from vllm.sampling_params import SamplingParams  # noqa: PLC0415
    from vllm.utils.hashing import sha256  # noqa: PLC0415
    from vllm.v1 import kv_cache_interface  # noqa: PLC0415
    from vllm.v1.core import kv_cache_utils  # noqa: PLC0415
    from vllm.v1.core.sched import async_scheduler, scheduler  # noqa: PLC0415
    from vllm.v1.outputs import ModelRunnerOutput  # noqa: PLC0415
    from vllm.v1.request import Request as VllmRequest  # noqa: PLC0415

    kv_cache_utils.init_none_hash(sha256)
    return SimpleNamespace(
        config=config,
        sampling=SamplingParams,
        kv=kv_cache_interface,
        hasher=lambda block_tokens: kv_cache_utils.get_request_block_hasher(block_tokens, sha256),
        schedulers=(scheduler.Scheduler, async_scheduler.AsyncScheduler),
        output=ModelRunnerOutput,
        request=VllmRequest,
        half=torch.float16,
    )


@dataclass(frozen=True, slots=True)
class CoreOptions:
    """What a vLLM engine is told.

    Attributes
    ----------
    blocks, block_tokens
        KV blocks that sequences can use, and tokens of one.
    max_model_len
        Longest sequence.
    caching
        Blocks keep what they hold.
    scheduler
        Options of its ``SchedulerConfig`` by their own names.
    """

    blocks: int
    block_tokens: int
    max_model_len: int
    caching: bool
    scheduler: dict[str, Any]

    @property
    def overlaps(self) -> bool:
        """Whether a step is scheduled while the one before it runs."""
        return bool(self.scheduler.get("async_scheduling"))


@dataclass(slots=True)
class ScheduledStep:
    """One decision of the scheduler.

    Attributes
    ----------
    tokens
        Tokens to compute, by request, in the scheduler's own order.
    past
        Tokens computed before, of the same requests.
    admitted
        Tokens found in the cache by each request that was admitted, in order.
    preempted
        Requests put back into the queue, in order of their numbers.
    sampled
        The token that each request produces, or nothing, in the order of ``tokens``.
    output
        vLLM's own object.
    """

    tokens: dict[int, int]
    past: dict[int, int]
    admitted: dict[int, int]
    preempted: list[int]
    sampled: list[list[int]]
    output: Any = field(repr=False)


class VllmCore:
    """A scheduler and the requests it knows.

    Parameters
    ----------
    options
        Its configuration.

    Attributes
    ----------
    least_free
        Fewest blocks that were ever free.
    """

    def __init__(self, options: CoreOptions) -> None:
        self._vllm = vllm = _vllm()
        self.options = options
        self._hasher = vllm.hasher(options.block_tokens) if options.caching else None
        self._scheduler = scheduler = _scheduler(vllm, options)
        self._known: dict[int, Any] = {}
        self._admitted: set[int] = set()
        self._own: dict[int, int] = {}
        self._pool = pool = scheduler.kv_cache_manager.block_pool
        self.least_free = options.blocks
        get_new_blocks = pool.get_new_blocks

        def counted(blocks: int) -> Any:  # noqa: ANN401 - vLLM's own
            found = get_new_blocks(blocks)
            self.least_free = min(self.least_free, pool.get_num_free_blocks())
            return found

        pool.get_new_blocks = counted

    @property
    def free(self) -> int:
        """Blocks that nobody uses."""
        return int(self._pool.get_num_free_blocks())

    @property
    def busy(self) -> bool:
        """Whether there is anything to schedule, or to clean up after."""
        return bool(self._scheduler.has_requests())

    def add(self, request: Request, output_tokens: int) -> None:
        """Queue a request that will produce so many tokens."""
        self._own[request.index] = request.own_content
        self._known[request.index] = made = self._made(request, output_tokens)
        self._scheduler.add_request(made)

    def _made(self, request: Request, output_tokens: int) -> Any:  # noqa: ANN401 - vLLM's own
        vllm = self._vllm
        return vllm.request(
            request_id=f"{request.index:09d}",
            prompt_token_ids=list(_tokens(request)),
            sampling_params=vllm.sampling(max_tokens=output_tokens, ignore_eos=True),
            pooling_params=None,
            arrival_time=float(request.order),
            priority=request.priority,
            block_hasher=self._hasher,
        )

    def requests(self) -> dict[int, tuple[int, int]]:
        """Return the tokens of each request, and those computed in steps that are over: running ones, then queued."""
        scheduler = self._scheduler
        return {
            int(one.request_id): (one.num_tokens, max(0, one.num_computed_tokens - one.num_in_flight_tokens))
            for queue in (scheduler.running, scheduler.waiting)
            for one in queue
        }

    def schedule(self) -> ScheduledStep:
        """Return the next decision; a step without tokens only cleans up, or makes room."""
        output = self._scheduler.schedule()
        preempted = sorted(int(name) for name in output.preempted_req_ids or ())
        self._admitted.difference_update(preempted)
        tokens = {int(name): new for name, new in output.num_scheduled_tokens.items()}
        past = {index: self._known[index].num_computed_tokens - new for index, new in tokens.items()}
        admitted = {index: done for index, done in past.items() if index not in self._admitted}
        self._admitted.update(admitted)
        sampled = [self._sampled(index, past[index] + new) for index, new in tokens.items()]
        return ScheduledStep(tokens, past, admitted, preempted, sampled, output)

    def _sampled(self, index: int, computed: int) -> list[int]:
        """Return what a request produces in a step after which so many tokens are computed."""
        return [] if self._known[index].is_prefill_chunk else [_first_token(self._own[index]) + computed]

    def find(self, request: Request) -> tuple[int, int]:
        """Return how many blocks of a request that is not queued are here, and how many of them nobody uses."""
        made = self._made(request, 1)
        (blocks,) = self._scheduler.kv_cache_manager.get_computed_blocks(made)[0].blocks
        return len(blocks), sum(not block.ref_cnt for block in blocks)

    def waiting_tokens(self) -> int:
        """Return the tokens of queued requests, and of started prompts those that are not computed."""
        scheduler = self._scheduler
        started = sum(r.num_tokens - r.num_computed_tokens for r in scheduler.running if r.is_prefill_chunk)
        return int(sum(request.num_tokens for request in scheduler.waiting) + started)

    def update(self, step: ScheduledStep) -> tuple[list[int], list[int]]:
        """Let a step be over; return the requests that got a token, and those of them that are finished."""
        names = list(step.output.num_scheduled_tokens)
        places = {name: place for place, name in enumerate(names)}
        output = self._vllm.output(req_ids=names, req_id_to_index=places, sampled_token_ids=step.sampled)
        told: list[int] = []
        finished: list[int] = []
        for outputs in self._scheduler.update_from_output(step.output, output).values():
            for one in outputs.outputs:
                index = int(one.request_id)
                told.append(index)
                if one.finish_reason is not None:
                    finished.append(index)
                    self._admitted.discard(index)
                    del self._known[index], self._own[index]
        return told, finished


def _first_token(content: int) -> int:
    """Return the token of a content at position 0; those after it follow."""
    return (2 * content if content >= 0 else -2 * content - 1) << _POSITION_BITS


def _tokens(request: Request) -> Iterator[int]:
    """Yield the tokens of a prompt: what its spans say, and its own after them."""
    place = 0
    for content, end in zip(request.prefix, request.prefix_ends, strict=True):
        first, stop = _first_token(content), min(end, request.tokens)
        yield from range(first + place, first + stop)
        place = stop
    first = _first_token(request.own_content)
    yield from range(first + place, first + request.tokens)


def _scheduler(vllm: SimpleNamespace, options: CoreOptions) -> Any:  # noqa: ANN401 - vLLM's own
    """Return a scheduler for a model of which it needs to know the longest sequence only."""
    config = vllm.config
    scheduling = config.SchedulerConfig(
        max_model_len=options.max_model_len, is_encoder_decoder=False, **options.scheduler
    )
    caching = config.CacheConfig(block_size=options.block_tokens, enable_prefix_caching=options.caching)
    # Block 0 is a placeholder that no sequence gets.
    caching.num_gpu_blocks = options.blocks + 1
    whole = config.VllmConfig(
        scheduler_config=scheduling, cache_config=caching, device_config=config.DeviceConfig("cpu")
    )
    whole.model_config = SimpleNamespace(
        is_diffusion=False,
        is_encoder_decoder=False,
        max_model_len=options.max_model_len,
        multimodal_config=None,
        return_sampling_mask=False,
        runner_type="generate",
        supports_multimodal_inputs=False,
        uses_mrope=False,
    )
    layer = vllm.kv.FullAttentionSpec(block_size=options.block_tokens, num_kv_heads=1, head_size=1, dtype=vllm.half)
    cache = vllm.kv.KVCacheConfig(
        num_blocks=options.blocks + 1,
        kv_cache_tensors=[],
        kv_cache_groups=[vllm.kv.KVCacheGroupSpec(["layer"], layer)],
    )
    made = vllm.schedulers[options.overlaps]
    outputs = SimpleNamespace(accept_tokens=lambda *_: True)
    return made(whole, cache, outputs, options.block_tokens, log_stats=False)
