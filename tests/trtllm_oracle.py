"""An independent, slow TensorRT-LLM: requests, tokens and blocks one by one, one iteration of ``PyExecutor`` at a time.

Active requests are a list in the order they were fetched; a block is known by all tokens up to its end and lies in a
tree, free ones wait in one queue. The two loops, with and without overlap, are those of ``py_executor.py``. Nothing is
shared with the engine but the prices. What the engine leaves out is left out here: partially filled blocks are not
reused, of a prompt only what others can ask for is stored while its request is active, and a block that was computed
twice is stored twice. Two things PyExecutor does are left out as well, and said where they are.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field


@dataclass
class Row:
    """A request."""

    index: int
    text: list
    output: int
    longest: int
    known: int
    prompt: int = 0
    position: int = 0
    cached: int = 0
    first_chunk: bool = True
    generating: bool = False
    completing: bool = False
    tokens_in_cache: int = 0
    produced: int = 0
    launched: int = 0
    chunk: int = 0
    estimated: int = 0
    blocks: list = field(default_factory=list)
    admitted_ns: int = -1
    first_ns: int = -1
    finish_ns: int = -1
    hit: int = -1
    preemptions: int = 0
    token_ns: list = field(default_factory=list)

    def token(self, place):
        return self.text[place] if place < len(self.text) else (-1 - self.index, place)

    def key(self, block, size):
        return tuple(self.token(place) for place in range((block + 1) * size))

    @property
    def remaining(self):
        return self.prompt - self.position


@dataclass
class TrtllmOracle:
    prices: object
    blocks: int
    block_tokens: int
    max_tokens: int
    max_sequences: int
    chunked: bool = True
    capacity: str = "GUARANTEED_NO_EVICT"
    chunking: str = "FIRST_COME_FIRST_SERVED"
    prefix_aware: bool = True
    wait_steps: int = 0
    wait_share: float = 0.0
    wait_ns: int = 0
    overlap: bool = False
    reuse: bool = False

    def run(self, arrivals, texts, known, outputs, declared=None) -> list[Row]:
        self.free = deque(range(self.blocks))
        self.refs = [0] * self.blocks
        self.key_of = [None] * self.blocks
        self.tree: dict[tuple, dict[int, None]] = {}
        self.active: list[Row] = []
        self.waited = 0
        longest = self.blocks * self.block_tokens
        rows = [
            Row(i, text, output, min(longest, len(text) + (declared or outputs)[i]), known[i], prompt=len(text))
            for i, (text, output) in enumerate(zip(texts, outputs, strict=True))
        ]
        self.coming, self.arrivals = deque(rows), arrivals
        self.queue: deque[Row] = deque()
        (self._overlapping if self.overlap else self._plain)()
        return rows

    # --- the loops of PyExecutor -----------------------------------------------------------------------

    def _fetch(self, now):
        """Fetch who has come by now, or by the end of the wait, and return when that is."""
        items = 0
        if not (self.active or self.queue):
            now = max(now, self.arrivals[self.coming[0].index])
        deadline = now + self.wait_ns
        while self.coming and self.arrivals[self.coming[0].index] <= now:
            self.queue.append(self.coming.popleft())
            items += 1
        while items < self.max_sequences and now < deadline:
            if not self.coming or self.arrivals[self.coming[0].index] > deadline:
                now = deadline
                break
            now = self.arrivals[self.coming[0].index]
            self.queue.append(self.coming.popleft())
            items += 1
        while self.queue and len(self.active) < self.max_sequences:
            self.active.append(self.queue.popleft())
        return now

    def _over(self):
        return not (self.coming or self.queue or self.active)

    def _plain(self):
        now = 0
        while not self._over():
            now = self._fetch(now)
            contexts, gens, paused = self._schedule()
            for row in paused:
                self._terminate(row)
                self._pause(row)
            if not contexts and not gens:
                continue
            self._prepare(contexts, gens, now)
            now += self._price(contexts, gens)
            sampled = self._sampled(contexts, gens)
            self._advance(contexts, gens)
            self._update(sampled, now)
            self._respond(now)
            self._store_contexts(contexts)

    def _overlapping(self):
        now, previous = 0, None
        while not self._over():
            fetched = self._fetch(now)
            contexts, gens, paused = self._schedule()
            for row in paused:
                self._terminate(row)
            launched = bool(contexts or gens)
            start = max(previous[2], fetched) if previous else fetched
            if launched:
                self._prepare(contexts, gens, start)
                end = start + self._price(contexts, gens)
                sampled = self._sampled(contexts, gens)
            if previous:
                now = start
                self._update(previous[1], now)
            for row in paused:
                if row.completing:
                    row.preemptions += 1
                else:
                    self._pause(row)
            if launched:
                self._advance(contexts, gens)
            if previous:
                self._respond(now)
                self._store_contexts([row for row in previous[0] if row.blocks])
            else:
                now = fetched
            previous = (contexts, sampled, end) if launched else None

    def _advance(self, contexts, gens):
        """Move requests on as soon as their step is launched."""
        for row in contexts:
            row.position += row.chunk
            row.first_chunk = False
            row.tokens_in_cache = row.position
            if not row.remaining:
                row.generating = True
                row.launched += 1
                row.completing = row.launched == row.output
        for row in gens:
            row.launched += 1
            row.completing = row.launched == row.output

    def _sampled(self, contexts, gens):
        """Return those of a step who get a token."""
        return [row for row in contexts if row.chunk == row.remaining] + gens

    def _update(self, sampled, now):
        """Take note of the tokens of a step that is over."""
        for row in sampled:
            row.produced += 1
            row.token_ns.append(now)
            if row.first_ns < 0:
                row.first_ns = now
            if row.produced == row.output:
                row.finish_ns = now

    def _respond(self, _now):
        for row in list(self.active):
            if row.finish_ns >= 0:
                self._terminate(row)
                self.active.remove(row)

    def _pause(self, row):
        row.preemptions += 1
        row.prompt = len(row.text) + row.produced
        row.position = row.tokens_in_cache = row.estimated = 0
        row.launched = row.produced
        row.first_chunk, row.generating, row.completing = True, False, False

    def _price(self, contexts, gens):
        context = sum(row.tokens_in_cache - 1 for row in gens) // len(gens) if gens else 0
        if not contexts:
            return self.prices.decode_ns(len(gens), context)
        ends = [row.position + row.chunk for row in contexts]
        return self.prices.mixed_ns(
            tokens=len(gens) + sum(row.chunk for row in contexts),
            samples=len(gens) + sum(end == row.prompt for end, row in zip(ends, contexts, strict=True)),
            decodes=len(gens),
            context=context,
            prompts=len(contexts),
            pairs=sum(end**2 - row.position**2 for end, row in zip(ends, contexts, strict=True)),
            reach=sum(ends),
        )

    # --- blocks ----------------------------------------------------------------------------------------

    def _full(self, row):
        return [row.key(block, self.block_tokens) for block in range((row.prompt - 1) // self.block_tokens)]

    def _matched(self, row):
        found = []
        if self.reuse:
            for key in self._full(row):
                if not self.tree.get(key):
                    break
                found.append(next(iter(self.tree[key])))
        return found

    def _first_new(self, row):
        if not self.reuse:
            return None
        for block in range(row.prompt // self.block_tokens):
            key = row.key(block, self.block_tokens)
            if not self.tree.get(key):
                return key
        return None

    def _take_free(self, row):
        block = self.free.popleft()
        if self.key_of[block] is not None:
            del self.tree[self.key_of[block]][block]
            self.key_of[block] = None
        self.refs[block] = 1
        row.blocks.append(block)

    def _prepare(self, contexts, gens, now):
        fresh = [row for row in contexts if row.first_chunk]
        for row in fresh:
            found = self._matched(row)
            for block in found:
                if not self.refs[block]:
                    self.free.remove(block)
                self.refs[block] += 1
            row.blocks = list(found)
            reused = len(found) * self.block_tokens
            if row.hit < 0:
                row.hit, row.admitted_ns = reused, now
            end = reused + row.chunk
            row.chunk = (
                row.prompt - reused if end >= row.prompt else end // self.block_tokens * self.block_tokens - reused
            )
            row.position = reused
        for row in fresh:
            while len(row.blocks) * self.block_tokens < row.prompt:
                self._take_free(row)
        for row in gens:
            if row.tokens_in_cache % self.block_tokens == 0:
                self._take_free(row)
            row.tokens_in_cache += 1

    def _store(self, row, tokens):
        for place in range(min(tokens // self.block_tokens, len(row.blocks))):
            key, block = row.key(place, self.block_tokens), row.blocks[place]
            if self.key_of[block] is None:
                self.tree.setdefault(key, {})[block] = None
                self.key_of[block] = key

    def _store_contexts(self, contexts):
        for row in contexts:
            if self.reuse and row.blocks:
                self._store(row, min(row.position, row.known))

    def _terminate(self, row):
        if self.reuse and row.blocks:
            self._store(row, row.tokens_in_cache)
        for block in reversed(row.blocks):
            self.refs[block] -= 1
            if not self.refs[block]:
                self.free.append(block)
        row.blocks = []

    # --- the scheduler ---------------------------------------------------------------------------------

    def _schedule(self):
        rows, paused = (self._utilize if self.capacity == "MAX_UTILIZATION" else self._guarantee)()
        contexts, gens = self._micro_batch(rows)
        if contexts and gens and self.wait_steps:
            tokens = len(gens) + sum(self._forward(row) for row in contexts)
            if self.waited < self.wait_steps and tokens < self.wait_share * self.max_tokens:
                self.waited += 1
                contexts = []
            else:
                self.waited = 0
        return contexts, gens, paused

    def _forward(self, row):
        """Return the tokens a step computes of a context request."""
        past = row.estimated if row.first_chunk else 0
        end = past + row.chunk
        return row.remaining - past if end >= row.remaining else end // self.block_tokens * self.block_tokens - past

    def _longest_blocks(self, row):
        return -(-row.longest // self.block_tokens)

    def _beneficial_to_skip(self, row, contributed):
        if not self.prefix_aware or row.generating or not row.first_chunk:
            return False
        key = self._first_new(row)
        if key is None:
            return False
        if key in contributed:
            return True
        contributed.add(key)
        return False

    def _contributed(self):
        if not self.prefix_aware:
            return set()
        started = [row for row in self.active if not row.generating and not row.first_chunk]
        return {key for row in started if (key := self._first_new(row)) is not None}

    def _remaining_blocks(self, row):
        row.estimated = 0
        if row.blocks or row.generating:
            return self._longest_blocks(row) - len(row.blocks)
        found = self._matched(row) if self.prefix_aware else []
        row.estimated = len(found) * self.block_tokens
        return self._longest_blocks(row) - sum(self.refs[block] > 0 for block in found)

    def _guarantee(self):
        static = self.capacity == "STATIC_BATCH"
        scheduled = [row for row in self.active if row.generating]
        free = len(self.free) - sum(self._remaining_blocks(row) for row in scheduled)
        contributed = set() if static else self._contributed()
        if static and scheduled:
            return scheduled, []
        closed = False
        for row in self.active:
            if row.generating or (closed and row.first_chunk):
                continue
            if not static and self._beneficial_to_skip(row, contributed):
                continue
            needed = self._remaining_blocks(row)
            if needed > free:
                # Here PyExecutor stops; a prompt in progress that comes later and holds what lacks would never end.
                closed = True
                continue
            free -= needed
            scheduled.append(row)
        return scheduled, []

    def _utilize(self):
        scheduled, paused, contributed = [], [], self._contributed()
        refs, free = list(self.refs), len(self.free)
        place, end, used = 0, len(self.active), 0
        while place < end:
            row = self.active[place]
            if self._beneficial_to_skip(row, contributed):
                place += 1
                continue
            needed = self._one_step_blocks(row, refs)
            if len(scheduled) < self.max_sequences and used + needed <= free:
                used += needed
                scheduled.append(row)
                place += 1
                continue
            started = [i for i in range(place, end) if self.active[i].generating or not self.active[i].first_chunk]
            if not started:
                break
            end = started[-1]
            paused.append(self.active[end])
            for block in self.active[end].blocks:
                refs[block] -= 1
                free += not refs[block]
        return scheduled, paused

    def _one_step_blocks(self, row, refs):
        row.estimated = 0
        if row.generating:
            return int(row.tokens_in_cache % self.block_tokens == 0)
        if not row.first_chunk:
            return 0
        found = self._matched(row) if self.prefix_aware else []
        used = sum(refs[block] > 0 for block in found)
        row.estimated = used * self.block_tokens
        return -(-row.prompt // self.block_tokens) - used

    def _micro_batch(self, rows):  # noqa: C901 - in one piece, as it is there
        contexts, gens, cut, tokens, cut_tokens, fit = [], [], [], 0, 0, True
        # PyExecutor takes them in turn: a prompt that does not fit would hold up sequences that came after it.
        for row in sorted(rows, key=lambda row: not row.generating):
            if row.completing:
                continue
            if row.generating:
                if tokens + 1 > self.max_tokens:
                    break
                gens.append(row)
                tokens += 1
            elif not self.chunked:
                cost = max(1, self._compute(row, row.remaining))
                if tokens + cost > self.max_tokens and (contexts or gens):
                    break
                contexts.append(row)
                row.chunk = row.remaining
                tokens += cost
            else:
                row.chunk = row.remaining
                cost = self._compute(row, row.chunk)
                if cost > self.max_tokens:
                    cost, fit = self.max_tokens, False
                cut.append(row)
                cut_tokens += cost
            if len(contexts) + len(gens) + len(cut) >= self.max_sequences:
                break
        if cut_tokens > self.max_tokens - tokens or self.chunking == "FORCE_CHUNK":
            fit = False
        if not fit:
            for row in cut:
                row.chunk = 0
            getattr(self, "_" + self.chunking.lower())(cut, self.max_tokens - tokens)
        return contexts + [row for row in cut if row.chunk], gens

    def _compute(self, row, chunk):
        reusable = min(row.estimated if row.first_chunk else 0, row.remaining)
        if reusable <= 0 or reusable + chunk < row.remaining:
            return chunk
        return max(0, row.remaining - reusable)

    def _first_come_first_served(self, rows, budget):
        for row in rows:
            row.chunk = row.remaining
            if budget < self._compute(row, row.chunk):
                row.chunk = budget // self.block_tokens * self.block_tokens
            budget -= self._compute(row, row.chunk)

    def _equal_progress(self, rows, budget):
        used, moved = 0, 1
        while used < budget and moved:
            moved = 0
            for row in rows:
                past, chunk = row.chunk, min(row.chunk + self.block_tokens, row.remaining)
                more = self._compute(row, chunk) - self._compute(row, past)
                if used + more > budget or chunk > self.max_tokens:
                    continue
                row.chunk = chunk
                used += more
                moved += chunk - past

    def _force_chunk(self, rows, budget):
        total = 0
        for row in rows:
            chunk = row.remaining
            if chunk > self.max_tokens:
                chunk = self.max_tokens // self.block_tokens * self.block_tokens
            if total + chunk > budget:
                chunk = min(chunk, max(0, budget - total)) // self.block_tokens * self.block_tokens
            row.chunk = chunk
            total += chunk
