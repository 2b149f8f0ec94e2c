"""Tables of docs/serve.md and the README: `lgsid serve` under load, and one recommendation beside other ways."""

from __future__ import annotations

from collections.abc import Callable

from cells import cells, table


def speed() -> str:
    """One recommendation in one process, all methods on the same requests."""
    rows = []
    for cell in cells("bench", "serve_speed.json"):
        m = cell["metrics"]
        for name, wall in m["wall_ms"].items():
            ratio = wall["p50"] / m["wall_ms"]["lgsid"]["p50"]
            rows.append([
                name, *(f"{wall[at]:,.1f}" for at in ("p50", "p99")), f"{m['process_ms'][name]['p50']:,.1f}",
                f"{m['mean_items'][name]:.1f}", f"{ratio:,.1f}",
            ])  # fmt: skip
    return table("method | p50 ms | p99 ms | processor ms, p50 | items | of lgsid's time", rows)


def load() -> str:
    """The service under load, each run: all of it, single minutes, and the server's steps."""
    rows = []
    for cell in sorted(
        cells("bench", "serve_load*.json"), key=lambda cell: (-int(cell["metrics"]["workers"]), -cell["seconds"])
    ):
        m = cell["metrics"]
        named = f"{m['workers'] or 'no'} workers, {cell['seconds'] / 60:g} min"
        minutes = sorted(m["recommend_by_minute_ms"], key=lambda minute: float(minute["p99"]))
        refused = m["recommend_outcomes"].get("503", 0) / sum(m["recommend_outcomes"].values())
        stolen = f", {m['stolen_share']:.2f} processors stolen" if "stolen_share" in m else ""
        used = f"{m['server_cpu_share']:.2f} processors used{stolen}, {100 * refused:.2f} % refused"
        parts = {
            f"{named}, as clients see it ({used})": m["recommend_ms"],
            **(
                {}
                if len(minutes) == 1
                else {
                    "… in the quickest minute": minutes[0],
                    "… in the median minute": minutes[len(minutes) // 2],
                    "… in the slowest minute": minutes[-1],
                }
            ),
            **{f"… in the server: {name}": step for name, step in m["server_steps_ms"].items()},
            "… append an event, as clients see it": m["append_ms"],
        }
        rows += [
            [name, *(f"{times[at]:,.1f}" for at in ("p50", "p95", "p99", "most"))] for name, times in parts.items()
        ]
    return table("milliseconds | p50 | p95 | p99 | most", rows)


TABLES: dict[str, Callable[[], str]] = {"serve-speed": speed, "serve-load": load}
