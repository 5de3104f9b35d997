"""What an engine does at one instant: take requests in, plan a step, price it, apply it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hardware.errors import LawError
from simulator.decode_run import DecodeRun
from simulator.finishes import Finishes
from simulator.front_end import Outlet
from simulator.host_link import HostLink
from simulator.inbox import Inbox
from simulator.lookahead import Lookahead
from simulator.schedulers.plan import Plan
from simulator.schedulers.sglang import SglangScheduler
from simulator.standstill import Standstill
from simulator.wake_up import WakeUp

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from simulator.engine_parts import EngineParts
    from simulator.request import Request
    from simulator.surroundings import Surroundings
    from simulator.watcher import Watcher

__all__ = ["EngineCore"]


class EngineCore:
    """A scheduler, its state, the price of its steps; whoever owns it lets their time pass.

    Parameters
    ----------
    around
        Where it stands.
    parts
        What the instances of its pool are made of. Where it does not decode, KV is handed over to another instance.

    Attributes
    ----------
    plan
        What it does now.
    joined
        Requests that decode in the next step after a pause, or for nothing.
    ahead
        Plans the next step when one begins, as an engine does that schedules asynchronously; or nobody does.
    held
        Requests whose prompts are computed and whose KV waits to leave.
    row
        Of the step log, for a step that computes prompts.
    outlet
        Where tokens leave.
    waited_ns
        Time from the end of the last step to the plan made now.
    started_ns, ended_ns
        When it began to serve, and when it stopped; -1 while it serves.
    """

    def __init__(self, around: Surroundings, parts: EngineParts) -> None:
        env, ledger = around.env, around.ledger
        self.env, self.number = env, around.number
        self.scheduler, self.prices = parts.scheduler, parts.prices
        self.state = parts.new_state()
        self._host_link = HostLink(env, parts.host_block_ns)
        self.scheduler.begin(self.state)
        self.ledger, self.log = ledger, around.log
        self.watcher: Watcher = around.watcher
        self.decodes_here, self._tells_late, self.tells_chunks = parts.decodes, parts.tells_late, around.tells_chunks
        self._single_steps = not around.macro_steps
        self._finishes = Finishes(ledger.output_tokens)
        self._wake_up = WakeUp(env)
        self._run = DecodeRun(env, self.prices, self._wake_up)
        self.row: list[int] = []
        self.plan = Plan([], 0, 1, [])
        self.joined: Sequence[Request] = ()
        self.ahead = Lookahead(self.scheduler, self.state) if parts.plans_ahead else None
        self._inbox = Inbox(self.state, parts.polls_every) if parts.polls_every > 1 else None
        self._standstill = Standstill(ledger)
        self.outlet = Outlet(ledger)
        self._takes_back = parts.plans_ahead and isinstance(self.scheduler, SglangScheduler)
        self._ended: list[Request] = []
        self.held = self.waited_ns = 0
        self.started_ns, self.ended_ns = env.now, -1

    def submit(self, request: Request) -> None:
        """Queue a request now; a run of decode steps is cut at its next step boundary."""
        if self._inbox is not None and not self._wake_up.asleep:
            self._inbox.add(self.env.now, request, self.state)
            if self._run.steps > 1:
                begun = self._run.begun()
                self._run.cut(more=self._inbox.steps_to_look(begun + (self.ahead is not None)) - begun)
            return
        # A plan made ahead lets KV be fetched when it is made. Behind a head that cannot be admitted, nothing changes.
        changes = self.state.waiting.would_lead(request)
        self.note(self.state.enqueue, request, changes=changes, soon=request.remote)

    def deliver(self, request: Request) -> None:
        """Take note that the KV a request asked for is here now."""
        self.note(self.state.deliver, request, changes=True)

    def _fetched(self, request: Request) -> None:
        """Take note that what the host had of a request is here now, unless the instance is gone."""
        if self.ended_ns < 0:
            self.note(self.state.deliver_from_host, request, changes=True)

    def release(self, request: Request, *, sent: bool = False) -> None:
        """Give back the blocks of a request whose KV was ``sent`` to another instance, or goes nowhere."""
        state = self.state
        self.held -= 1
        if sent and state.departs is not None:
            self.note(state.depart, request, changes=True)
            return
        changed = state.depart(request)
        if state.waiting or state.running or state.ready or state.fetched:
            self._notice(changed=changed)

    def note(self, action: Callable[[Request], bool], request: Request, *, changes: bool, soon: bool = False) -> None:
        """Do something that may change the plan; where the next plan is made already, before the one after it."""
        if self.ahead is None or soon or self._wake_up.asleep:
            if self.ahead is not None and self.ahead.unseen and self._run.steps > 1:
                # Who came before has been seen by single steps, and waits before it.
                self.ahead.see(self._run.known_ns())
            self._notice(changed=action(request))
            return
        self.ahead.note(self.env.now, action, request, changes=changes)
        if changes and self._run.steps > 1:
            self._run.cut(more=1)

    def cancel(self, request: Request) -> None:
        """Give up a request that waits for its KV here: for blocks, or for the KV itself."""
        self.settle()
        state = self.state
        if request.loading:
            state.abandon(request)
            request.computed = request.tokens
        else:
            state.waiting.remove(request)
        self._notice(changed=True)

    def recompute(self, request: Request) -> None:
        """Compute the prompt of a request here whose KV did not come; it goes to the head of the queue."""
        self.settle()
        state = self.state
        request.remote = False
        request.epoch += 1
        state.abandon(request)
        request.computed = 0
        state.waiting.appendleft(request)
        self._notice(changed=True)

    def stop(self) -> list[Request]:
        """End the engine now, with all KV it holds; a step that is not over has computed nothing.

        Returns
        -------
        list of Request
            Those that were on it, but for requests whose KV was being fetched or waited to leave.
            ``tokens`` are those to compute before the next appears, ``computed`` those computed so far (all, for
            one that was decoding), ``stalled_ns`` when the last token appeared.
        """
        state, last_ns = self.state, self.settle()
        self._run.steps = 0
        self.ended_ns = self.env.now
        self._wake_up.silence()
        self._standstill.stop(state, {request.index for request, _ in self.plan.chunks}, last_ns)
        self.held = 0
        return state.lose_all()

    def settle(self) -> int:
        """Apply the decode steps of a run that are over before now, and all that came; return when the last step ended.

        The step under way has its blocks already, though a run takes them only when it is over.
        """
        run = self._run
        if run.steps > 1 and (over := run.begun() - 1):
            self._split_run(over)
        if run.steps and self.plan.decodes and self.plan.steps > 1:
            self.state.pool.take_until(self.state.step, self.state.step + 1)
        if self.ahead is not None:
            self.ahead.see_all()
        if self._inbox is not None:
            self._inbox.receive_all(self.state)
        return run.start_ns

    def _split_run(self, over: int) -> None:
        """Let so many steps of the run be over now."""
        start_ns = self._run.start_ns
        self.advance(over, start_ns, self._run.shorten(over), takes_blocks=True)

    def take_begun(self) -> int:
        """Take the blocks of those decode steps that have begun, before somebody looks at them; return their number."""
        run, plan, state = self._run, self.plan, self.state
        if not (plan.decodes and plan.steps > 1 and run.steps and self.env.now > run.start_ns):
            return int(plan.decodes > 0)
        begun = run.begun()
        state.pool.take_until(state.step, state.step + begun)
        return begun

    def load(self) -> tuple[int, int, int]:
        """Return tokens that wait to be computed, blocks in use, as of single steps, and tokens of a block."""
        self.take_begun()
        return self.state.load()

    def next_plan(self) -> Plan:
        """Plan the next step, and begin it."""
        plan = self.scheduler.plan(self.state) if self.ahead is None else self.ahead.plan()
        self.begin(plan)
        return plan

    def lags(self, plan: Plan) -> bool:
        """Let the plan after one without a step know all there is; tell whether that one did not."""
        lagged = self.ahead is not None and self.ahead.catch_up(self.env.now)
        return lagged or bool(plan.preempted) or not plan.steps

    def known_ns(self) -> int:
        """Return until when the plan made now knows what has come."""
        return self.env.now if self.ahead is None else self.ahead.last_step_ns

    def begin(self, plan: Plan) -> None:
        """Note and pass on what a plan decided besides what the step computes."""
        self.plan, state = plan, self.state
        if self._ended:
            self._tell_ends(plan)
        if plan.preempted:
            self._standstill.begin(plan.preempted, self.env.now - self.waited_ns, self.ledger.preemptions)
        if plan.held:
            self._standstill.begin(plan.held, self.env.now)
        for request in plan.loads:
            state.loading += 1
            request.loading = True
            self.watcher.reserved(self.number, request)
        for request in plan.fetches:
            state.fetching[request.index] = request
            missing = (request.computed - request.found) // state.pool.block_tokens
            self._host_link.copy(request, missing, self._fetched)
        self.joined = [*plan.joined, *plan.spare] if plan.spare else plan.joined
        for request in plan.joined:
            if self.ledger.told_ns[request.index] < 0:
                # Its first token came with its KV, and leaves from here.
                request.stalled_ns = self.env.now
                self.outlet.first(request.index, self.env.now)
            self._finishes.expect(request, state.step, request.tokens - self.ledger.prompt_tokens[request.index])

    def _notice(self, *, changed: bool) -> None:
        """Wake a sleeping engine; cut a run of steps if what changed may change the plan."""
        if self._wake_up.asleep:
            self._wake_up.move(0)
        elif changed and self._run.steps > 1:
            self._run.cut()

    def check_asleep(self) -> None:
        """Check that nothing is left to do before something happens."""
        state = self.state
        comes = state.loading or state.fetching or self.held or (state.media and state.media.holds_up(state))
        if state.waiting and not comes:
            raise LawError(f"instance {self.number} has {len(state.waiting)} waiting requests and no plan")

    def steps_unchanged(self, plan: Plan) -> int:
        """Return for how many steps of decoding a plan holds, as far as anybody knows now."""
        if self._single_steps or (self.ahead is not None and self.ahead.changes):
            return 1
        steps = self._finishes.steps_left(self.state.step, plan.steps)
        return min(steps, self._inbox.steps_to_look(1)) if self._inbox else steps

    def apply_decodes(self, plan: Plan, steps: int) -> None:
        """Let the decode steps of the run be over."""
        run = self._run
        if self.ahead is not None and (self.ahead.unseen or self._inbox):
            self.ahead.last_step_ns = run.last_step_ns(steps)
        self.advance(steps, run.start_ns, self.env.now, takes_blocks=plan.steps > 1)
        if self._finishes.next_step <= self.state.step:
            self._finish_due()

    def advance(self, steps: int, start: int, end_ns: int, *, takes_blocks: bool) -> None:
        """Let decode steps be over; the first block of each sequence was taken by a plan of one step."""
        state, joined, standstill, log = self.state, self.joined, self._standstill, self.log
        decodes, context = state.decodes, state.context_sum // state.decodes
        if joined or standstill.since_ns >= 0:
            first = self.prices.decode_ns(decodes, context) if steps > 1 else end_ns - start
            if standstill.since_ns >= 0:
                standstill.end(decodes - len(joined), state.running, start + first, first)
        if joined:
            log.add((start, first, 1, decodes, context, 0, 0, 0, 0, 0, len(joined)))
            self._end_stalls(start + first)
            if steps > 1:
                log.add_decodes(start + first, end_ns - start - first, steps - 1, decodes, context + 1)
        else:
            log.add_decodes(start, end_ns - start, steps, decodes, context)
        tokens = decodes * steps
        if takes_blocks:
            state.pool.take_until(state.step, state.step + steps)
        state.step += steps
        state.context_sum += tokens
        self.outlet.waiting += tokens

    def _end_stalls(self, now_ns: int) -> None:
        """Let the first token appear here of sequences that came from another instance, or one nobody gets."""
        self.state.wasted += self._standstill.end_stalls(self.joined, now_ns)
        self.joined = ()

    def price_chunks(self, plan: Plan) -> int:
        """Return how long a step that computes prompts lasts, which begins now."""
        state, now, ledger = self.state, self.env.now, self.ledger
        tokens, completed, pairs, reach, squares = plan.sums()
        for request, _ in plan.chunks:
            if ledger.admitted_ns[request.index] < 0:
                ledger.admitted_ns[request.index], ledger.cached_tokens[request.index] = now, request.computed
        prompts, decodes = len(plan.chunks), plan.decodes
        context = state.context_sum // decodes if decodes else 0
        duration = self.prices.mixed_ns(
            tokens=tokens + decodes,
            samples=decodes + completed,
            decodes=decodes,
            context=context,
            prompts=prompts,
            pairs=pairs,
            reach=reach,
            squares=squares,
        )
        if decodes == 0 < state.decodes and self._standstill.since_ns < 0:
            self._standstill.since_ns = now
        self._run.start_ns = now
        self.row = [now, duration, 1, decodes, context, tokens, prompts, completed, pairs, reach, len(self.joined)]
        return duration

    def tell_chunks(self, plan: Plan, duration_ns: int) -> None:
        """Tell the watcher what a step that begins now computes of whose prompt, and how long it lasts."""
        for request, new in plan.chunks:
            self.watcher.computing(self.number, request, new, duration_ns)

    def apply_chunks(self, plan: Plan) -> None:
        """Let the step be over that computes prompts."""
        state = self.state
        self.log.add(self.row)
        if self.ahead is not None:
            self.ahead.last_step_ns = self._run.start_ns
        if plan.decodes:
            if self._standstill.since_ns >= 0:
                self._standstill.end(plan.decodes - len(self.joined), state.running, self.env.now, self.row[1])
            state.step += 1
            state.context_sum += plan.decodes
        if self.joined:
            self._end_stalls(self.env.now)
        self.outlet.waiting += plan.decodes + self.row[7]
        for request, new in plan.chunks:
            request.computed += new
            if request.computed == request.tokens:
                state.prefilling.pop(request.index, None)
                self._first_token(request)
            else:
                state.prefilling[request.index] = request
        if self._finishes.next_step <= state.step:
            self._finish_due()

    def _first_token(self, request: Request) -> None:
        """Let the next token of a computed prompt, or of a recomputed context, appear now."""
        ledger, index, now = self.ledger, request.index, self.env.now
        if ledger.first_token_ns[index] < 0:
            ledger.first_token_ns[index] = now
        if request.stalled_ns >= 0:
            ledger.note_gap(request.stalled_ns, now)
            request.stalled_ns = -1
        produced = request.tokens - ledger.prompt_tokens[index] + 1
        goes_on = not self.decodes_here and produced < ledger.output_tokens[index]
        if ledger.told_ns[index] < 0 and not (goes_on and self._tells_late):
            self.outlet.first(index, now)
        if goes_on:
            # Its blocks stay until its KV has left.
            del self.state.running[index]
            self.held += 1
            self.watcher.prompt_computed(self.number, request)
            return
        if self._standstill.since_ns >= 0:
            self._standstill.join(index, now)
        self.state.join_decode(request)
        self._finishes.expect(request, self.state.step, produced)

    def _finish_due(self) -> None:
        state = self.state
        for request in self._finishes.due(state.step, state.running):
            state.leave_decode(request)
            state.ending[request.index] = request
            if self.ahead is None:
                state.settles(state)
            if self._takes_back:
                self._ended.append(request)
            else:
                self._tell_end(request.index)

    def _tell_end(self, index: int) -> None:
        self.outlet.last(index, self.env.now)
        self.watcher.finished(self.number, index)

    def _tell_ends(self, plan: Plan) -> None:
        """Let clients have their last tokens, but for those that the plan made meanwhile put back."""
        ended, self._ended = self._ended, []
        for request in ended:
            if all(request is not other for other in plan.preempted):
                self._tell_end(request.index)
