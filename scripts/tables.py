"""Rewrite the result tables of README.md and docs/ from the files in results/.

A table stands between ``<!-- table NAME -->`` and ``<!-- end -->``. ``--check`` changes nothing and fails where one is
stale.

    python scripts/tables.py [--check]
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable

from alignment_tables import ablation, efficiency, rewards, shipped, strangers, training_step
from cells import REPOSITORY, Cell, cells, table
from generate_tables import TABLES as GENERATE_TABLES
from rank_tables import TABLES as RANK_TABLES
from serve_tables import TABLES as SERVE_TABLES
from sid_tables import TABLES as SID_TABLES

BLOCK = re.compile(r"<!-- table (?P<name>[\w-]+) -->\n.*?<!-- end -->", re.DOTALL)


def quantisers(least_items: int = 0) -> str:
    """Residual codebooks beside faiss."""
    order = ("lgsid", "lgsid-kmeans", "faiss-kmeans", "faiss-rq", "vq-pytorch", "cornac")

    def place(cell: Cell) -> tuple[str, int, int]:
        return cell["dataset"].split("_")[0], cell["metrics"]["items"], order.index(cell["method"])

    rows = []
    for cell in sorted(cells("bench", "quantisers-*.json"), key=place):
        m = cell["metrics"]
        if m["items"] < least_items:
            continue
        rows.append([
            f"{place(cell)[0]} {m['items']:,}",
            f"`{cell['method']}`",
            f"{m['fit_seconds']:.1f}",
            f"{m['assign_seconds']:.2f}",
            f"{m['peak_mib']:,.0f} ({m['input_mib']:,.0f})",
            f"{m['relative_error']:.4f}",
            f"{m['utilisation']:.2f}",
            " / ".join(f"{bits:.2f}" for bits in m["entropy_bits"]),
            f"{m['collision_share']:.3f}",
            f"{m['collision_unique']:.3f}",
        ])  # fmt: skip
    header = "vectors | method | fit s | assign s | peak MiB (input) | error | use | bits 1 / 2 / 3 | share colliding"
    return table(header + " | 1 − distinct", rows)


def quantiser_peers() -> str:
    """20,000 vectors beside all peers, before and after reassignment of the last level."""
    rows = []
    for cell in cells("bench", "quantisers-*_20000-*.json"):
        m = cell["metrics"]
        rows.append([
            cell["dataset"].split("_")[0], f"`{cell['method']}`", f"{m['cpu_seconds']:.0f}",
            f"{m['peak_mib'] * 1.048576:,.0f}", f"{m['relative_error']:.4f}", f"{m['collision_unique']:.3f}",
            " / ".join(f"{bits:.2f}" for bits in m["entropy_bits"]), f"{m['relative_error_unique']:.4f}",
            f"+{m['relative_error_unique'] / m['relative_error'] - 1:.1%}", f"{m['collision_unique_after']:.3f}",
        ])  # fmt: skip
    header = "vectors | method | fit CPU s | peak MB | error | 1 − distinct | bits 1 / 2 / 3 | error, reassigned"
    return table(header + " | cost | 1 − distinct, reassigned", rows)


def quantisers_million() -> str:
    """The largest size only."""
    return quantisers(1_000_000)


def tokeniser_scale() -> str:
    """The whole tokeniser by size of the catalogue."""
    rows = []
    for cell in sorted(cells("bench", "hgit-world_*.json"), key=lambda cell: cell["metrics"]["items"]):
        m = cell["metrics"]
        rows.append([
            f"{m['items']:,}",
            f"{m['fit_seconds']:.0f}",
            f"{m['transform_seconds']:.1f}",
            f"{m['unique_seconds']:.1f}",
            f"{m['peak_mib']:,.0f} ({m['embeddings_mib']:,.0f})",
            f"{min(level['utilisation'] for level in m['levels']):.0%}",
            f"{m['first_token']['province_purity']:.3f}",
            f"{m['collision_share']:.3f}",
            f"{m['moved_share']:.3f}",
            f"{m['reconstruction']['relative_by_level'][-1]:.3f}",
            f"{m['reconstruction']['relative_after_unique']:.3f}",
            "yes" if m["extra_token"] else "no",
        ])  # fmt: skip
    header = "items | fit s | transform s | unique s | peak MiB (embeddings) | least use | province purity"
    return table(header + " | raw collisions | moved | error | error, unique | extra token", rows)


def data_claims(bench: dict[str, Cell]) -> list[list[str]]:
    """Speed and memory of reading and simulating tables."""
    imported, big = bench["import_memory"], bench["world_scale"]["metrics"]["scale_en"]
    rows = []
    rows.append([
        f"import a {imported['file_mib'] / 1024:.1f} GiB check-in log",
        f"{imported['lgsid']['peak_mib']:,.0f} MiB, {imported['lgsid']['seconds']:.0f} s",
        f"`pandas.read_csv` {imported['pandas']['peak_mib']:,.0f} MiB, {imported['pandas']['seconds']:.0f} s",
        f"{1 / imported['memory_ratio']:.2f} (memory)",
        "`import_memory.py`",
    ])  # fmt: skip
    rows.append([
        f"simulate {big['items']:,} shops and {big['events']:,} events",
        f"{big['seconds']:.0f} s, {big['peak_mib']:,.0f} MiB",
        "–",
        "–",
        "`world_scale.py`",
    ])  # fmt: skip
    return rows


def alignment_claims(bench: dict[str, Cell]) -> list[list[str]]:
    """Speed of alignment's parts."""
    drawn, step = bench["negatives"]["metrics"], bench["training_step"]["metrics"]["bf16, dropout 0.05"]
    scales = drawn["multiscale"]
    ball_seconds = drawn["ball_tree_seconds_for_all"]
    beside = f"scikit-learn's BallTree, 128 nearest alone {ball_seconds:,.0f} s (scaled from a sample)"
    return [
        [
            f"{drawn['negatives']} hard negatives for each of {drawn['items']:,} items, {law}",
            f"{seconds:.0f} s, {peak:,.0f} MiB", beside, f"{seconds / ball_seconds:.3f}", "`negatives.py`",
        ]
        for law, seconds, peak in (
            ("nearest places", drawn["seconds"], drawn["peak_mib"]),
            ("every scale", scales["seconds"], scales["peak_mib"]),
        )
    ] + [
        [
            "train on 64 prompts, LoRA on all maps of MiniLM, bf16",
            f"{step['ours_seconds']:.2f} s",
            f"peft {step['peft_seconds']:.2f} s",
            f"{step['ratio']:.2f}",
            "`training_step.py`",
        ]
    ]  # fmt: skip


def ranker_claims(bench: dict[str, Cell]) -> list[list[str]]:
    """Speed of training rankers, beside two libraries on the same samples; and of updating a large table."""
    names = {"din": "DIN", "dien": "DIEN", "sim": "SIM", "eta": "ETA"}
    peers = {"torch-rechub": "torch-rechub", "fuxictr": "FuxiCTR"}
    rows = []
    for pair, found in bench["rankers"]["rows"].items():
        model, peer = pair.split("-", 1)
        rows.append([
            f"train {names[model]}, samples/s", f"{found['ours']['samples_per_second']:,.0f}",
            f"{peers[peer]} {found['peer']['samples_per_second']:,.0f}", f"{found['speed_ratio']:.2f}", "`rankers.py`",
        ])  # fmt: skip
    update = bench["update_speed"]["metrics"]
    times = update["ascending rows, ms"]
    rows.append([
        f"update {update['touched']:,} rows of a table of {update['rows']:,} × {update['dim']}",
        f"{times['ours']:.1f} ms", f"torch's SparseAdam {times['torch SparseAdam']:.1f} ms",
        f"{times['torch SparseAdam / ours']:.2f}", "`update_speed.py`",
    ])  # fmt: skip
    return rows


def decoding_claims(bench: dict[str, Cell]) -> list[list[str]]:
    """Naming a user's next items, beside two libraries; by the time of the processor."""
    found = bench["decode_speed"]["metrics"]
    rows = []
    for batch in (1, 32):
        at = found[f"transformers, batch {batch}"]
        rows.append([
            f"50 beams in a trie of 50,000 items, batch {batch}", f"{1e3 * at['ours, processor s']:.0f} ms",
            f"transformers `generate` {1e3 * at['transformers, processor s']:.0f} ms",
            f"{at['ratio, processor s']:.1f}", "`decode_speed.py`",
        ])  # fmt: skip
    at = found["cornac"]["batch 32, a user"]
    rows.append([
        "20 beams in a trie of 20,000 items, a user of 32", f"{1e3 * at['ours, processor s']:.1f} ms",
        f"cornac's TIGER {1e3 * at['cornac, processor s']:.0f} ms", f"{at['ratio, processor s']:.1f}",
        "`decode_speed.py`",
    ])  # fmt: skip
    return rows


def serving_claims(bench: dict[str, Cell]) -> list[list[str]]:
    """Finding what is within reach, and recommending it."""
    found = bench["reach_speed"]["metrics"]
    ours, ball = found["ms"]["ours"]["thread p50"], found["ms"]["scikit-learn BallTree"]["thread p50"]
    load, speed = bench["serve_load"]["metrics"], bench["serve_speed"]["metrics"]
    times, wall = load["recommend_ms"], speed["wall_ms"]
    lance = wall["LanceDB, IVF-PQ and B-trees"]["p50"]
    return [
        [
            f"items within {found['radius_km']:g} km of a place, of {found['items']:,}", f"{ours:.2f} ms",
            f"scikit-learn's BallTree {ball:.1f} ms", f"{ball / ours:.1f}", "`reach_speed.py`",
        ],
        [
            f"a recommendation among {speed['items']:,} items: within reach, ranked by DIN, in words",
            f"{wall['lgsid']['p50']:.1f} ms", f"LanceDB's filtered vector search alone {lance:.1f} ms",
            f"{lance / wall['lgsid']['p50']:.1f}", "`serve_speed.py`",
        ],
        [
            f"the same over HTTP by {load['workers']} workers, {load['rate']:g} a second for "
            f"{bench['serve_load']['seconds'] / 60:g} minutes",
            f"p50 {times['p50']:.1f} ms, p99 {times['p99']:.0f} ms", "–", "–", "`serve_load.py`",
        ],
    ]  # fmt: skip


def claims() -> str:
    """Other speed and memory claims, each with the script that measures it and what it is compared with."""
    bench = {
        path.stem: json.loads(path.read_text(encoding="utf-8"))
        for path in (REPOSITORY / "results/bench").glob("*.json")
    }
    assign, encoded = bench["assign_speed"]["metrics"], bench["encode_throughput"]["metrics"]
    rows = [
        [
            f"assign {assign['items']:,} × {assign['dim']} vectors to 3 × 256 codes",
            f"{assign['assign_seconds']:.1f} s, {assign['peak_mib']:,.0f} MiB",
            f"bare matrix products {assign['bare_products_seconds']:.1f} s",
            f"{assign['ratio']:.2f}",
            "`assign_speed.py`",
        ]
    ]
    for precision in ("fp32", "bf16"):
        run = encoded[f"full prompts, random order, {precision}"]
        rows.append([
            f"encode prompts with MiniLM, {precision}",
            f"{run['ours_per_second']:.0f}/s",
            f"`SentenceTransformer.encode` {run['theirs_per_second']:.0f}/s",
            f"{run['ratio']:.2f}",
            "`encode_throughput.py`",
        ])  # fmt: skip
    rows += data_claims(bench)
    rows += alignment_claims(bench)
    rows += ranker_claims(bench)
    rows += decoding_claims(bench)
    rows += serving_claims(bench)
    return table("what | lgsid | beside | ratio | script", rows)


TABLES: dict[str, Callable[[], str]] = {
    "quantisers": quantisers,
    "quantiser-peers": quantiser_peers,
    "quantisers-million": quantisers_million,
    "tokeniser-scale": tokeniser_scale,
    "claims": claims,
    "ablation-yelp": lambda: ablation("yelp-3states"),
    "ablation-fsq": lambda: ablation("fsq-nyc"),
    "rewards": rewards,
    "efficiency": efficiency,
    "shipped": shipped,
    "strangers": strangers,
    "training-step": training_step,
    **SID_TABLES,
    **RANK_TABLES,
    **GENERATE_TABLES,
    **SERVE_TABLES,
}


def fill(text: str, source: str) -> str:
    """The text with every table made anew."""

    def block(match: re.Match[str]) -> str:
        name = match.group("name")
        if name not in TABLES:
            sys.exit(f"{source}: no table {name!r}; known: {', '.join(TABLES)}")
        return f"<!-- table {name} -->\n{TABLES[name]()}\n<!-- end -->"

    return BLOCK.sub(block, text)


def main() -> None:
    """Rewrite or check all documents."""
    check, stale = "--check" in sys.argv[1:], []
    for path in (REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))):
        old = path.read_text(encoding="utf-8")
        new = fill(old, path.name)
        if new != old:
            stale.append(path.name)
            if not check:
                path.write_text(new, encoding="utf-8")
    if check and stale:
        sys.exit(f"stale tables in {', '.join(stale)}; fix: python scripts/tables.py")
    print(f"tables {'are up to date' if not stale else 'rewritten in ' + ', '.join(stale)}")


if __name__ == "__main__":
    main()
