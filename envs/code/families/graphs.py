"""Families about graphs, trees and grids."""

from __future__ import annotations

from .family import family, of_topic, pairs, word

GRAPHS = of_topic(
    "graphs",
    family(
        "within_steps",
        "medium",
        "n: int, edges: list[tuple[int, int]] -> int",
        "The nodes are 0 to n - 1, and an edge (a, b) can be followed $how. Count the nodes other than 0 that can be reached from node 0 in at most $k steps.",
        """
        seen, layer = {0}, {0}
        for _ in range($k):
            following = set()
            for a, b in edges:
                if a in layer:
                    following.add(b)
                if b in layer and "$how" == "both ways":
                    following.add(a)
            layer = following - seen
            seen |= layer
        return len(seen) - 1
        """,
        [
            ("range($k)", "range($k - 1)"),
            ('"$how" == "both ways"', '"$how" != "both ways"'),
            ("len(seen) - 1", "len(seen)"),
            ("len(seen) - 1", "len(layer)"),
        ],
        lambda r, p: ((n := r.randint(2, 9)), pairs(r, 2 * n, n)),
        lambda p: [
            (1, []),
            (2, [(1, 0)]),
            (2, [(0, 1)]),
            (9, [(i, i + 1) for i in range(8)]),
            (9, [(i + 1, i) for i in range(8)]),
            (4, [(0, 1), (1, 2), (2, 0), (3, 0)]),
        ],
        k=(2, 3, 4, 5, 6),
        how=("from a to b only", "both ways"),
    ),
    family(
        "cheapest_route",
        "hard",
        "n: int, roads: list[list[int]] -> int",
        "The places are 0 to n - 1; a road [a, b, cost] can be used $how, and every road that is used costs a toll of $toll in addition. Return the least cost of going from 0 to n - 1, or -1.",
        """
        best = {0: 0}
        for _ in range(n):
            for a, b, cost in roads:
                for x, y in [(a, b), (b, a)] if "$how" == "both ways" else [(a, b)]:
                    if x in best and best[x] + cost + $toll < best.get(y, 10**9):
                        best[y] = best[x] + cost + $toll
        return best.get(n - 1, -1)
        """,
        [
            ("range(n)", "range(1)"),
            ("cost + $toll < best.get", "cost < best.get"),
            ('"$how" == "both ways"', '"$how" != "both ways"'),
            ("n - 1, -1", "n - 1, 0"),
        ],
        lambda r, p: ((n := r.randint(2, 7)), [[a, b, r.randint(1, 9)] for a, b in pairs(r, 3 * n, n)]),
        [
            (1, []),
            (2, []),
            (2, [[1, 0, 4]]),
            (2, [[0, 1, 4]]),
            (4, [[2, 3, 1], [1, 2, 1], [0, 1, 1], [0, 3, 9]]),
            (4, [[3, 2, 1], [2, 1, 1], [1, 0, 1]]),
            (3, [[0, 1, 1], [1, 2, 1], [0, 2, 3]]),
            (4, [[2, 3, 1], [1, 2, 1], [0, 1, 1], [0, 3, 30]]),
            (5, [[3, 4, 2], [2, 3, 2], [1, 2, 2], [0, 1, 2], [0, 2, 5], [0, 3, 8], [0, 4, 12]]),
        ],
        toll=(1, 2, 3, 4, 5),
        how=("from a to b only", "both ways"),
    ),
    family(
        "clusters",
        "medium",
        "n: int, links: list[tuple[int, int]] -> int",
        "The points are 0 to n - 1; linked points belong together, and so do points that are linked over others. Of the groups with at least $k points return $what.",
        """
        group = list(range(n))
        for a, b in links:
            old, new = group[a], group[b]
            group = [new if g == old else g for g in group]
        sizes = [s for s in (group.count(g) for g in set(group)) if s >= $k]
        return {"their number": len(sizes), "the size of the smallest, or 0": min(sizes, default=0), "the size of the largest, or 0": max(sizes, default=0)}["$what"]
        """,
        [
            ("s >= $k", "s > $k"),
            ("old, new = group[a], group[b]", "old, new = a, group[b]"),
            ("if s >= $k]", "]"),
            ("group[a], group[b]", "group[b], b"),
            ("new if g == old else g", "new if g >= old else g"),
        ],
        lambda r, p: ((n := r.randint(1, 11)), pairs(r, n, n)),
        lambda p: [
            (0, []),
            (1, []),
            (5, []),
            (6, [(0, 1), (2, 3), (4, 5)]),
            (8, [(i, i + 1) for i in range(p.k - 1)]),
            (9, [(8, 0), (7, 1), (0, 7), (1, 2), (2, 3), (5, 6)]),
            (9, [(0, 1), (2, 1), (3, 4), (4, 5), (5, 6)]),
        ],
        k=(1, 2, 3, 4),
        what=("their number", "the size of the smallest, or 0", "the size of the largest, or 0"),
    ),
    family(
        "work_order",
        "hard",
        "n: int, rules: list[tuple[int, int]] -> list[int]",
        "The jobs are 0 to n - 1, and a rule (a, b) says that a is done $rule b. Of all jobs that can be done next the $tie is taken. Return the jobs in the order in which they are done, or [$none] if the rules cannot be kept.",
        """
        waits = {job: set() for job in range(n)}
        for a, b in rules:
            if "$rule" == "before":
                waits[b].add(a)
            else:
                waits[a].add(b)
        done = []
        while len(done) < n:
            ready = [job for job in range(n) if job not in done and waits[job] <= set(done)]
            if not ready:
                return [$none]
            done.append(min(ready) if "$tie" == "smallest" else max(ready))
        return done
        """,
        [
            ('"$rule" == "before"', '"$rule" != "before"'),
            ('"$tie" == "smallest"', '"$tie" != "smallest"'),
            ("return [$none]", "return done"),
            ("waits[job] <= set(done)", "(not done or waits[job] <= set(done))"),
        ],
        lambda r, p: (
            (n := r.randint(1, 6)),
            [(b, a) if r.random() < 0.3 else (a, b) for a, b in map(sorted, pairs(r, n, n))],
        ),
        [
            (1, []),
            (3, []),
            (3, [(2, 1), (1, 0)]),
            (3, [(0, 1), (1, 2)]),
            (2, [(0, 1), (1, 0)]),
            (4, [(3, 0), (2, 1)]),
            (4, [(0, 3), (1, 2), (0, 1)]),
            (3, [(1, 2), (2, 1)]),
        ],
        rule=("before", "after"),
        tie=("smallest", "largest"),
        none=(-1, -2, -9),
    ),
    family(
        "region_size",
        "medium",
        "grid: list[str], row: int, column: int -> int",
        "Return how many cells hold $mark and are connected with the cell (row, column) over cells that hold $mark, a cell having $n neighbours; 0 if the cell itself holds something else.",
        """
        waiting, seen = [(row, column)], set()
        while waiting:
            i, j = waiting.pop()
            if (i, j) in seen or not (0 <= i < len(grid) and 0 <= j < len(grid[0])) or grid[i][j] != "$mark":
                continue
            seen.add((i, j))
            for di in (-1, 0, 1):
                for dj in (-1, 0, 1):
                    if $n == 8 or di == 0 or dj == 0:
                        waiting.append((i + di, j + dj))
        return len(seen)
        """,
        [
            ("$n == 8", "$n == 4"),
            ("for di in (-1, 0, 1)", "for di in (0, 1)"),
            ('or grid[i][j] != "$mark"', ""),
        ],
        lambda r, p: ([word(r, 5, p.mark * 3 + "-=", 5) for _ in range(4)], r.randrange(4), r.randrange(5)),
        lambda p: [
            ([p.mark], 0, 0),
            (["-"], 0, 0),
            ([p.mark + "-", "-" + p.mark], 0, 0),
            ([p.mark * 3] * 3, 1, 1),
            ([p.mark * 2 + "-", "--" + p.mark, p.mark * 3], 2, 0),
        ],
        mark=("#", "o", "*", "+", "x"),
        n=(4, 8),
    ),
    family(
        "tree_level",
        "medium",
        "parents: list[int] -> int",
        "parents[i] is the parent of node i in a tree, -1 for the root. Return how many nodes $what $d steps away from the root.",
        """
        total = 0
        for node in range(len(parents)):
            depth, at = 0, node
            while parents[at] != -1:
                at = parents[at]
                depth += 1
            far = {"are exactly": depth == $d, "are more than": depth > $d, "have no child and are at least": depth >= $d and node not in parents}["$what"]
            total += far
        return total
        """,
        [
            ("depth, at = 0, node", "depth, at = 1, node"),
            ("total += far", "total = total or int(far)"),
            ("range(len(parents))", "range(1, len(parents) - 1)"),
        ],
        lambda r, p: ([-1, *(r.randint(max(0, i - 2), i) for i in range(r.randint(0, 9)))],),
        lambda p: [
            ([-1],),
            ([-1, 0, 1, 2, 3, 4, 5],),
            ([1, -1, 1, 0, 3, 4, 4],),
            ([-1, 0, 0, 1, 1, 2, 2, 3, 3, 4],),
            ([*range(-1, p.d + 2), p.d - 1, p.d, p.d],),
        ],
        d=(1, 2, 3, 4),
        what=("are exactly", "are more than", "have no child and are at least"),
    ),
)
