"""Every plan of a small chain, straight from the definitions: an oracle for the dynamic program."""

from __future__ import annotations

import random
from itertools import chain, combinations, pairwise, product

from dshrink.search.dp.problem import SpanProblem


def valid_spans(length, breaks, skips):
    def fits(i, j):
        crosses = any(i < p < j < q or p < i < q < j for p, q in skips)
        return not crosses and not any(i < b < j for b in breaks)

    return [(i, j) for i in range(length) for j in range(i + 1, length + 1) if fits(i, j)]


def subsets(items):
    return chain.from_iterable(combinations(items, n) for n in range(len(items) + 1))


def keys_of(spans, ends):
    """The published rule for keys, written out anew."""
    found = []
    for i, j in spans:
        if i == 0:
            found.append((i, j, 1, 1))
        elif i in ends:
            found += [(i, j, 0, 1), (i, j, 1, 1)]
        elif j in ends:
            found += [(i, j, 1, 0), (i, j, 1, 1)]
        else:
            found.append((i, j, 1, 1))
    return found


def random_problem(seed, width=1, longest=6):
    """A chain with skips, breaks and block ends; numbers are eighths, so that sums are exact."""
    draw = random.Random(seed)
    length = draw.randint(2, longest)
    skips = []
    at = 0
    while at < length:
        end = at + draw.randint(1, 3)
        if end <= length and end - at > 1 and draw.random() < 0.5:
            skips.append((at, end))
        at = end
    breaks = [b for b in range(1, length) if draw.random() < 0.15]
    ends = [e for e in range(1, length + 1) if draw.random() < 0.4]
    spans = valid_spans(length, breaks, skips)

    def time(i, j):
        return draw.randint(1, 8 + 8 * (j - i)) / 8

    costs = {
        (i, j): tuple(time(i, j) for _ in range(width))
        for i, j in spans
        if j == i + 1 or draw.random() < 0.9  # some rows have no latency, keys they have
    }
    importance = {key: draw.randint(-16, 16) / 8 for key in keys_of(spans, ends)}
    names = ("latency in ms", "macs", "parameters")[:width]
    return SpanProblem(length=length, costs=costs, importance=importance, names=names)


def all_plans(problem):
    """(costs, importance, S, A) of all ways to choose S, A and the keys of the importance."""
    length, importance = problem.length, problem.importance
    for inner in subsets(range(1, length)):
        stations = (*inner, length)
        for flags in product((0, 1), repeat=len(stations)):
            nodes = [(0, 1), *zip(stations, flags, strict=True)]
            steps = list(pairwise(nodes))
            if any((i, j, a, b) not in importance for (i, a), (j, b) in steps):
                continue
            value = sum(estimate(importance, i, j, a, b) for (i, a), (j, b) in steps)
            active = tuple(j for j, b in nodes[1:] if b)
            others = [at for at in range(1, length) if at not in stations]
            for more in subsets(others):
                cuts = sorted((0, *stations, *more))
                layers = list(pairwise(cuts))
                if all(layer in problem.costs for layer in layers):
                    columns = zip(*(problem.costs[layer] for layer in layers), strict=True)
                    yield tuple(map(sum, columns)), value, tuple(cuts[1:]), active


def estimate(importance, i, j, a, b):
    """The best sum over all ways to take the span apart at places without an activation."""
    found = [importance[i, j, a, b]]
    for cuts in subsets(range(i + 1, j)):
        places = [(i, a), *((m, 0) for m in cuts), (j, b)]
        keys = [(p, q, c, d) for (p, c), (q, d) in pairwise(places)]
        if all(key in importance for key in keys):
            found.append(sum(importance[key] for key in keys))
    return max(found)


def staircase(plans):
    """(time, importance, layers) that no plan betters, the fewest layers where two are equal."""
    points = sorted({(costs[0], -value, len(cuts)) for costs, value, cuts, _ in plans})
    kept = []
    for time, negative, layers in points:
        if not kept or -negative > kept[-1][1]:
            kept.append((time, -negative, layers))
    return kept
