"""One dp group of an engine: a queue, a running set, and a pool of KV blocks.

Every running sequence gets one token in each decode step, so nothing is kept per token: a sequence's state follows from
the number of decode steps since it joined. Which sequences need a new block in a step is a count by phase (step number
modulo block size), and who finishes when is a calendar. A step therefore costs the same for 1 and for 1000 sequences.
"""

from __future__ import annotations

from collections import deque
from heapq import heappop, heappush
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from runbook_lib.capacity.rules import Rules


class Request:
    """One request of `owner`. Times in picoseconds of the engine's clock, -1 while they have not come."""

    __slots__ = (
        "arrived", "end", "finished", "first", "generated", "group", "ident", "input", "joined", "output", "owner",
        "phase", "preempted", "prefilled", "queued",
    )  # fmt: skip

    def __init__(
        self,
        input_tokens: int,
        output_tokens: int,
        arrived: int = 0,
        owner: Any = None,  # noqa: ANN401 - the engine only carries it
    ) -> None:
        self.input = input_tokens
        self.output = output_tokens
        self.arrived = arrived
        self.owner = owner
        self.ident = 0
        self.queued = arrived
        self.first = self.finished = -1
        self.generated = 0  # up to when it last joined or left the running set
        self.joined = self.end = self.phase = -1  # end: the group's step count when it is done; -1 when not running
        self.preempted = 0
        self.prefilled = False
        self.group = -1  # -1: in no group (waits for a link, or is done)


class Group:
    """Queue, running set and blocks of one dp group."""

    __slots__ = (
        "admitting", "ahead", "block_size", "budget", "context", "ends", "free", "granted", "heap", "index",
        "live", "need", "reserve", "rules", "running", "step", "waiting", "waste",
    )  # fmt: skip

    def __init__(self, index: int, rules: Rules) -> None:
        self.index = index
        self.rules = rules
        self.block_size = rules.block_size
        self.ahead = rules.lookahead
        self.budget = rules.prefill_budget
        self.reserve = rules.reserved * rules.blocks
        self.waiting: deque[Request] = deque()
        self.admitting: list[Request] = []
        self.running: dict[Request, None] = {}
        self.free = rules.blocks
        self.live = 0
        self.step = 0
        self.context = 0
        self.need = [0] * rules.block_size
        self.ends: dict[int, dict[Request, None]] = {}
        self.heap: list[int] = []
        self.granted = False  # the blocks of the step under way have been handed out
        self.waste = 0

    def generated(self, request: Request) -> int:
        """Return how many tokens a request of this group has now."""
        return request.generated + (self.step - request.joined if request.end >= 0 else 0)

    def blocks_of(self, tokens: int) -> int:
        """Return the blocks of a sequence with that many tokens in its cache."""
        return -(-(tokens + self.ahead) // self.block_size)

    def load(self) -> int:
        """Return how many requests the group has to care for."""
        return len(self.waiting) + len(self.admitting) + self.live

    def wants_prefill(self, now: int, delay: int) -> bool:
        """Tell whether this round shall be a prefill. Counts the round's waste with supportSelectBatch."""
        rules = self.rules
        if not self.waiting:
            self.waste = 0
            return False
        if self.live and rules.support_select_batch:
            self.waste += rules.decode_time_ms * (rules.max_batch_size - self.live)
            if rules.prefill_time_ms * self.live > self.waste:
                return False
            self.waste = 0
            return True
        return now - self.waiting[0].queued >= delay and self.free >= self.reserve

    def rounds_to_prefill(self) -> int:
        """Return how many decode rounds from now the waste rule will refuse a prefill (supportSelectBatch)."""
        rules = self.rules
        gain = rules.decode_time_ms * (rules.max_batch_size - self.live)
        if gain <= 0:
            return 1 << 60
        return max(1, -(-(rules.prefill_time_ms * self.live - self.waste) // gain))

    def admit(self) -> tuple[int, int]:
        """Move the next prefill batch from the queue's head to `admitting`; return (tokens, sum of squares).

        First come, first served: the first request that does not fit closes the batch.
        """
        rules, waiting, size, free = self.rules, self.waiting, self.block_size, self.free
        ahead = self.ahead
        room = min(rules.max_prefill_batch_size, rules.max_batch_size - self.live)
        tokens = squares = 0
        batch = self.admitting
        while waiting and len(batch) < room:
            head = waiting[0]
            length = head.input + head.generated
            need = -(-(length + ahead) // size)
            if tokens + length > self.budget or need > free or head.prefilled:
                break
            waiting.popleft()
            free -= need
            tokens += length
            squares += length * length
            batch.append(head)
        self.free = free
        return tokens, squares

    def receive(self) -> bool:
        """Take in requests whose KV came from a prefill instance; return whether any was."""
        waiting, taken = self.waiting, False
        while waiting and waiting[0].prefilled and self.live < self.rules.max_batch_size and self.free >= self.reserve:
            head = waiting[0]
            need = self.blocks_of(head.input + head.generated - 1)
            if need > self.free:
                break
            waiting.popleft()
            self.free -= need
            self.join(head)
            taken = True
        return taken

    def join(self, request: Request) -> None:
        """Put a request, whose newest token has just been made, into the running set."""
        step = self.step
        length = request.input + request.generated
        phase = request.phase = (step + 1 - self.ahead - length) % self.block_size
        self.need[phase] += 1
        end = request.end = step + request.output - request.generated
        request.joined = step
        ends = self.ends.get(end)
        if ends is None:
            self.ends[end] = {request: None}
            heappush(self.heap, end)
        else:
            ends[request] = None
        self.running[request] = None
        self.live += 1
        self.context += length

    def leave(self, request: Request) -> None:
        """Take a request out of the running set and give its blocks back."""
        self.running.pop(request, None)
        generated = request.generated + self.step - request.joined
        length = request.input + generated
        self.context -= length
        self.live -= 1
        self.need[request.phase] -= 1
        held = -(-(length - 1 + self.ahead) // self.block_size)
        if self.granted and (self.step - request.phase) % self.block_size == 0:
            held += 1
        self.free += held
        request.generated = generated
        request.end = -1

    def make_room(self) -> list[Request]:
        """Preempt the youngest until the next step's blocks are there; return who lost, youngest first."""
        need = self.need
        phase = self.step % self.block_size
        victims = []
        while need[phase] > self.free:
            victim, _ = self.running.popitem()
            ends = self.ends[victim.end]
            del ends[victim]
            self.leave(victim)
            victim.preempted += 1
            victim.prefilled = False
            victims.append(victim)
            if self.rules.victims_first:
                self.waiting.appendleft(victim)
        if not self.rules.victims_first:
            self.waiting.extend(reversed(victims))
        return victims

    def steps_to_end(self) -> int:
        """Return after how many steps the next request is done; only while something runs."""
        heap, ends = self.heap, self.ends
        while not ends[heap[0]]:
            del ends[heappop(heap)]
        return heap[0] - self.step

    def demand(self, steps: int) -> int:
        """Return the blocks that the running set needs in the next `steps` steps."""
        cycles, rest = divmod(steps, self.block_size)
        start = self.step % self.block_size
        total = cycles * self.live
        if rest:
            end = start + rest
            total += sum(self.need[start:end])
            if end > self.block_size:
                total += sum(self.need[: end - self.block_size])
        return total

    def steps_with_room(self, most: int) -> int:
        """Return how many of the next `most` steps find all their blocks free; the first one always does."""
        if -(-most // self.block_size) * self.live <= self.free or self.demand(most) <= self.free:
            return most
        low, high = 1, most
        while high - low > 1:
            middle = (low + high) // 2
            if self.demand(middle) <= self.free:
                low = middle
            else:
                high = middle
        return low

    def grant(self, steps: int) -> None:
        """Hand out the blocks of the next steps."""
        self.free -= self.need[self.step % self.block_size] if steps == 1 else self.demand(steps)
        self.granted = True

    def advance(self, steps: int) -> list[Request]:
        """Let steps pass; return who is done, in the order in which they joined."""
        self.granted = False
        self.step += steps
        self.context += self.live * steps
        done = self.ends.pop(self.step, None)
        if done is None:
            return []
        heappop(self.heap)
        finished = list(done)
        for request in finished:
            self.leave(request)
        return finished
