"""Serving in event time once more, in plain float64 Python with loops: what the tests compare to.

Written from the model's page and from nothing else: speeds are walked piece by piece, memory is a
list in the order of use, heartbeats are counted one by one. Slow on purpose.
"""

from __future__ import annotations

from dataclasses import dataclass, field

INF = float("inf")


@dataclass
class Server:
    step_time: list[float]  # [M] s
    task_time: list[float]  # [M] s
    load_time: list[float]  # [M] s
    memory: float  # GB
    rate: float  # Mbit/s
    latency: float  # s
    elastic: bool
    phase: float  # s
    pieces: list[tuple[float, float]]  # (begin, speed), finite begins only
    free: float = 0.0  # s
    used: list[int] = field(default_factory=list)  # variants resident, least recently used first
    cleared: float = 0.0  # s
    queued: float = 0.0  # s at nominal speed
    beat: int = -1
    told: float = 0.0
    told_at: float = 0.0
    told_resident: set[int] = field(default_factory=set)

    def speed(self, time: float) -> float:
        now = self.pieces[0][1]
        for begin, speed in self.pieces:
            if begin <= time:
                now = speed
        return now

    def outages(self) -> list[tuple[float, float]]:
        """(begin, end) of every outage."""
        found = []
        begin = None
        for start, speed in self.pieces:
            if speed == 0 and begin is None:
                begin = start
            if speed > 0 and begin is not None:
                found.append((begin, start))
                begin = None
        return found

    def work(self, time: float) -> float:
        """F(t)."""
        total = 0.0
        for index, (begin, speed) in enumerate(self.pieces):
            end = self.pieces[index + 1][0] if index + 1 < len(self.pieces) else INF
            if time > begin:
                total += (min(time, end) - begin) * speed
        return total

    def finish(self, start: float, ask: float) -> float:
        """When ``ask`` seconds of work that begin at ``start`` are done, outages waited for."""
        left = ask
        for index, (begin, speed) in enumerate(self.pieces):
            end = self.pieces[index + 1][0] if index + 1 < len(self.pieces) else INF
            if end <= start:
                continue
            begin = max(begin, start)
            if speed > 0 and left <= (end - begin) * speed:
                return begin + left / speed
            if speed > 0:
                left -= (end - begin) * speed
        raise AssertionError("the last piece goes on for ever")


@dataclass
class Outcome:
    at: float
    ready: float
    cold: float
    ask: float
    lost: bool
    answered: float
    known: float


@dataclass
class World:
    servers: list[Server]
    sizes: list[float]  # [M] GB
    heartbeat: float
    detect: float
    links: list[float]  # [S] s
    sent: dict[tuple[int, int], tuple[int, float, frozenset[int]]] = field(default_factory=dict)

    def listen(self, now: float) -> None:
        for server in self.servers:
            k = server.beat + 1
            while server.phase + k * self.heartbeat <= now:
                time = server.phase + k * self.heartbeat
                if server.speed(time) > 0:
                    before = server.told_at if server.beat >= 0 else -1.0
                    if any(before < begin <= time for begin, _ in server.outages()):
                        server.queued = server.work(server.free)
                    server.beat, server.told_at = k, time
                    if server.elastic:
                        server.told = 0.0
                        server.told_resident = set(range(len(self.sizes)))
                    else:
                        server.told = max(server.queued - server.work(time), 0.0)
                        gone = any(server.cleared < begin <= time for begin, _ in server.outages())
                        server.told_resident = set() if gone else set(server.used)
                k += 1

    def sent_by(self, station: int, index: int) -> tuple[float, frozenset[int]]:
        beat, work, variants = self.sent.get((station, index), (-1, 0.0, frozenset()))
        return (work, variants) if beat == self.servers[index].beat else (0.0, frozenset())

    def dispatch(
        self,
        now: float,
        origin: int,
        size: float,
        result: float,
        images: int,
        index: int,
        variant: int,
        steps: int,
    ) -> Outcome:
        server = self.servers[index]
        at, back = now, 0.0
        if index != origin:
            at = max(now, self.links[origin]) + size / server.rate
            self.links[origin] = at
            back = result / server.rate
        ready = at if server.elastic else max(at, server.free)
        for begin, end in server.outages():
            if begin <= ready < end:
                ready = end
        used = list(server.used)
        if any(server.cleared < begin <= ready for begin, _ in server.outages()):
            used = []
        cold = 0.0 if server.elastic or variant in used else server.load_time[variant]
        work = server.task_time[variant] + images * steps * server.step_time[variant]
        ask = cold + work
        done = server.finish(ready, ask)
        crash, up_again = INF, INF
        if not server.elastic:
            for begin, end in server.outages():
                if begin > ready:
                    crash, up_again = begin, end
                    break
        lost = done > crash
        told, variants = self.sent_by(origin, index)
        self.sent[origin, index] = (server.beat, told + work, variants | {variant})
        if not server.elastic:
            server.queued = max(server.queued, server.work(ready)) + ask
            server.cleared = max(server.cleared, ready)
            if lost:
                server.free, server.used = up_again, []
                server.cleared = max(server.cleared, up_again)
            else:
                server.free = done
                used = [m for m in used if m != variant]
                while sum(self.sizes[m] for m in used) + self.sizes[variant] > server.memory:
                    used.pop(0)
                server.used = [*used, variant]
        answered = INF if lost else done + server.latency + back
        return Outcome(at, ready, cold, ask, lost, answered, crash + self.detect if lost else INF)

    def dispatch_parts(
        self, now, origin, size, result, images: list[int], variants: list[int], steps: list[int]
    ) -> dict[int, Outcome]:
        total = sum(images)
        return {
            index: self.dispatch(
                now,
                origin,
                size * count / total,
                result * count / total,
                count,
                index,
                variants[index],
                steps[index],
            )
            for index, count in enumerate(images)
            if count > 0
        }


def whole_images(fractions: list[float], images: int) -> list[int]:
    """By largest remainder, the lower server first."""
    counts = [int(fraction * images) for fraction in fractions]
    remainders = [
        fraction * images - count for fraction, count in zip(fractions, counts, strict=True)
    ]
    for _ in range(images - sum(counts)):
        index = max(range(len(counts)), key=lambda i: (remainders[i], -i))
        counts[index] += 1
        remainders[index] = -1.0
    return counts


@dataclass
class Decision:
    """One decision of an episode, and what is known of it afterwards."""

    now: float
    row: int  # of which request
    images: int
    attempt: int
    told: list[float]  # [B] at the decision
    age: list[float]  # [B]
    sent: list[float]  # [B] by the request's station
    reward: float
    resolved: bool
    delay: float | None  # where it is resolved and answered
    served: bool
    tie: bool  # an arrival came at the same time


@dataclass
class Whole:
    """A request as its user sees it."""

    open: int = 1
    answered: float = -INF
    quality: float = INF


def episode(
    world: World,
    rows: list[dict],
    options: list[tuple[int, int, float]],
    decide,
    attempts: int,
    impatience: float,
    failure_cost: float = 0.0,
) -> list[Decision]:
    """Every decision of an episode.

    ``decide(number, row, images)`` gives {server: images} and an option, (variant, steps, quality)
    of which are ``options``.
    """
    wholes = [Whole() for _ in rows]
    waiting: list[tuple[float, int, int, int]] = []  # (known, row, images, attempt)
    coming = 0
    decisions = []
    while coming < len(rows) or waiting:
        arrival = rows[coming]["arrival"] if coming < len(rows) else INF
        waiting.sort(key=lambda entry: entry[0])
        if waiting and waiting[0][0] <= arrival:
            now, number, images, attempt = waiting.pop(0)
        else:
            now, number, images, attempt = arrival, coming, rows[coming]["images"], 0
            coming += 1
        row, whole = rows[number], wholes[number]
        world.listen(now)
        seen = (
            [server.told for server in world.servers],
            [now - server.told_at for server in world.servers],
            [world.sent_by(row["origin"], i)[0] for i in range(len(world.servers))],
        )
        split, option = decide(len(decisions), row, images)
        variant, steps, quality = options[option]
        share = images / row["images"]
        whole.open -= 1
        whole.quality = min(whole.quality, quality)
        for index, count in sorted(split.items()):
            part = share * count / images
            outcome = world.dispatch(
                now, row["origin"], row["size"] * part, row["result"] * part, count,
                index, variant, steps,
            )  # fmt: skip
            if not outcome.lost:
                whole.answered = max(whole.answered, outcome.answered)
            elif attempt + 1 < attempts:
                whole.open += 1
                waiting.append((outcome.known, number, count, attempt + 1))
            else:
                whole.answered = INF
        resolved = whole.open == 0
        reward, delay, served = 0.0, None, False
        if resolved:
            passed = whole.answered - row["arrival"]
            delay = passed if passed < INF else None
            factored = min(max(whole.quality * row["factor"], 0.0), 1.0)
            served = passed <= row["limit"] and factored >= row["quality"]
            reward = factored * served - impatience * min(passed / row["limit"], 2.0)
            reward -= failure_cost * (not served)
        decisions.append(
            Decision(
                *(now, number, images, attempt, *seen),
                *(reward, resolved, delay, served, bool(attempt) and now == arrival),
            )
        )
    return decisions
