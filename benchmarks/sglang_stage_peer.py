"""Drive SGLang's own scheduler of an instance that only decodes: cases in, one line of JSON each, decisions out.

Started by :mod:`benchmarks.conformance_sglang` with ``--decode``. The queue of requests that wait for pages, and the
passes over it, are SGLang's (``disaggregation/decode.py``); KV is on its way for a number of passes that the case says.
"""

from __future__ import annotations

import json
import sys
from collections import deque
from typing import Any
from unittest.mock import MagicMock

from sglang.srt.disaggregation.decode import DecodePreallocQueue, DecodeReqToTokenPool, DecodeRequest
from sglang.srt.disaggregation.utils import DisaggregationMode
from sglang.srt.managers.schedule_batch import Req, ScheduleBatch
from sglang_peer import (
    PATIENCE,
    Case,
    Patient,
    launch,
    next_token,
    process,
    request_of,
    row_of,
    scheduler_of,
    settings_of,
)


class Line(DecodePreallocQueue):
    """The queue of requests that wait for pages, without what tells the other side."""

    def _send_kv_metadata(self, decode_req: DecodeRequest, *_args: Any, **_kwargs: Any) -> None:
        decode_req.metadata_buffer_index = self.req_to_metadata_buffer_idx_allocator.alloc()

    def _update_handshake_waiters(self, *_args: Any) -> None:
        for one in self.queue:
            one.waiting_for_input = True

    def _resolve_pending_reqs(self) -> None:
        pass


class Careful(Patient):
    """The scheduler, which goes on where SGLang 0.5.23 ends with an error: nobody has room, and somebody ends."""

    def send_abort_output(self, *_args):
        """End the case: a request is given up."""
        raise RuntimeError("SGLang gives a request up that does not fit alone")

    def update_running_batch(self, batch):
        """Return the batch, an empty one where SGLang has none."""
        found = super().update_running_batch(batch)
        self.put_off = batch if found is None else None
        return ScheduleBatch(reqs=[], batch_is_full=False) if found is None else found


class Transfers:
    """Requests whose KV is on its way."""

    enable_staging = False

    def __init__(self, passes: int) -> None:
        self.queue: list[DecodeRequest] = []
        self.passes, self.now, self.due = passes, 0, {}
        self.free: Any = None

    def extend(self, found: list[DecodeRequest]) -> None:
        """Let the KV of requests set out."""
        for one in found:
            self.queue.append(one)
            self.due[one.req.rid] = self.now + self.passes

    def pop_transferred(self) -> list[Req]:
        """Return the requests whose KV is here."""
        here = [one for one in self.queue if self.due[one.req.rid] <= self.now]
        self.queue = [one for one in self.queue if self.due[one.req.rid] > self.now]
        for one in here:
            one.req.output_ids.append(next_token(one.req))
            # As where SGLang commits what came with the KV: rows of equal priority are sorted by this time.
            one.req.time_stats.set_wait_queue_entry_time()
            self.free.free(one.metadata_buffer_index)
        return [one.req for one in here]

    def resolve_deferred_releases(self) -> None:
        """Do nothing: no transfer fails."""


class Places:
    """Places for what comes besides KV."""

    def __init__(self, size: int) -> None:
        self.left = size

    def available_size(self) -> int:
        """Return how many are left."""
        return self.left

    def alloc(self) -> int:
        """Take one."""
        self.left -= 1
        return 0

    def free(self, _place: int) -> None:
        """Give one back."""
        self.left += 1


def decoding(case: Case) -> Any:
    """Return a scheduler that only decodes."""
    found = scheduler_of(case)
    found.__class__ = Careful
    rows = DecodeReqToTokenPool(
        case["running"], case["context"] + 96, "cpu", enable_memory_saver=False, pre_alloc_size=case["extra_rows"]
    )
    transfers, places = Transfers(case["passes"]), Places(2 * case["running"])
    transfers.free = places
    line = Line.__new__(Line)
    pages = found.token_to_kv_pool_allocator
    pages.get_kvcache = MagicMock
    line.__dict__.update(
        req_to_token_pool=rows,
        token_to_kv_pool_allocator=pages,
        token_to_kv_pool=MagicMock(),
        draft_token_to_kv_pool=None,
        req_to_metadata_buffer_idx_allocator=places,
        scheduler=found,
        transfer_queue=transfers,
        tree_cache=found.tree_cache,
        num_reserved_decode_tokens=case["reserved"],
        max_total_num_tokens=case["pages"] * case["page"],
        queue=[],
        retracted_queue=[],
        pending_reqs=[],
        pp_size=1,
        kv_manager=MagicMock(kv_args=MagicMock(state_types=[])),
        held_rebootstrap_reqs=[],
    )
    found.tree_cache.req_to_token_pool = rows
    found.__dict__.update(
        req_to_token_pool=rows,
        disaggregation_mode=DisaggregationMode.DECODE,
        disagg_decode_prealloc_queue=line,
        disagg_decode_transfer_queue=transfers,
        enable_decode_hicache=False,
        kv_checksum_computer=None,
        put_off=None,
        schedule_stream=MagicMock(),
        forward_stream=MagicMock(),
        output_streamer=MagicMock(),
    )
    object.__setattr__(found.batch_result_processor, "req_to_token_pool", rows)
    object.__setattr__(found.batch_result_processor, "disaggregation_mode", DisaggregationMode.DECODE)
    return found


def decode_decisions(case: Case, log: list[dict[str, Any]]) -> None:
    """Add to a log what every pass of an instance decides that only decodes."""
    scheduler, overlap = decoding(case), case["rules"]["overlap"]
    line, transfers = scheduler.disagg_decode_prealloc_queue, scheduler.disagg_decode_transfer_queue
    coming = deque(sorted(case["requests"], key=lambda row: (row["at"], row["index"])))
    step = quiet = 0
    while True:
        transfers.now = step
        while coming and coming[0]["at"] <= step:
            request = request_of(scheduler, coming.popleft(), case["rules"])
            line.queue.append(DecodeRequest(req=request, kv_receiver=MagicMock()))
        scheduler.process_decode_queue()
        plan = scheduler.get_next_disagg_decode_batch_to_run(scheduler.running_batch)
        scheduler.running_batch, batch = scheduler.put_off or plan.running_batch, plan.batch_to_run
        scheduler.put_off = None
        row = row_of(scheduler, step, batch)
        row["ready"] = row.pop("queue")
        row["queue"] = [int(r.rid) for r in (*line.retracted_queue, *(one.req for one in line.queue))]
        del row["ratio"]
        log.append(row)
        if batch is not None:
            launch(scheduler, batch)
        if overlap and scheduler.last_batch:
            process(scheduler, *scheduler.result_queue.popleft())
        if batch is None and not (overlap and scheduler.last_batch):
            waits = line.queue or line.retracted_queue or transfers.queue or scheduler.waiting_queue
            if not waits and scheduler.running_batch.is_empty():
                if not coming:
                    return
                step = max(step, coming[0]["at"] - 1)
            elif quiet > PATIENCE:
                log.append({"stuck": True})
                return
            quiet += 1
        else:
            quiet = 0
        scheduler.last_batch = batch
        step += 1


def main() -> None:
    """Answer cases until there are no more."""
    for text in sys.stdin:
        case = json.loads(text)
        with settings_of(case, disaggregation_mode="decode", disaggregation_decode_retraction_backup="cpu_tensor"):
            log: list[dict[str, Any]] = []
            try:
                decode_decisions(case, log)
            except RuntimeError as error:
                log.append({"error": str(error).splitlines()[0]})
        print(json.dumps(log), flush=True)


if __name__ == "__main__":
    main()
