"""What it costs to name a user's next items: beside transformers' ``generate`` and beside cornac's TIGER.

transformers: one T5 with the same weights in both, 4 + 4 layers of 128 dimensions, histories of 20 visits, 50,000 items
with random SIDs of 3 × 256 codes, 50 beams. There the trie is a dictionary of prefixes behind
``prefix_allowed_tokens_fn``, as users write it. (Its softmax goes over the tokens of all levels, ours over those of
one; that both name the same items where the softmax is the same is a test, tests/generate/test_decoding.py.) The two
take turns; the fastest of several rounds counts, and that by the time of the processor stands beside it, as it says
more on a machine that others use too.

cornac: its TIGER of the same shape on 20,000 items with 20 beams, one user at a time, which is all that it can do. It
runs with an interpreter that has it (``pip install cornac==3.0.1 transformers``), as it is: ``TIGER.score`` of a model
that has not been trained. Its SIDs have a fourth token against collisions, so ours get one too.

The trie: of a million items in 100 cities, and what is left of it for users that go 5 km.

    python benchmarks/decode_speed.py [--cornac-python PYTHON]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lgsid.artifact import peak_memory_mib, sha256_json, versions, write_json
from lgsid.config import GenerateConfig
from lgsid.generate.base import Packed
from lgsid.generate.recommending import Generated
from lgsid.generate.tiger import Tiger
from lgsid.generate.transformers_t5 import FIRST, PADDING, to_transformers
from lgsid.generate.trie import Trie
from lgsid.geo import SpatialIndex

RESULTS = Path(__file__).resolve().parents[1] / "results" / "bench"
CODES, HISTORY = 256, 20
SHAPE: dict[str, Any] = {"dim": 128, "heads": 4, "feed_forward": 1024, "encoder_layers": 4, "decoder_layers": 4}
PEER = """
import json, sys, time
import numpy as np, torch
from cornac.models import TIGER
from cornac.models.tiger.tiger import TIGERSeq2Seq
given = json.loads(sys.stdin.read())
torch.set_num_threads(given["threads"])
codes = np.array(given["codes"])
shape = dict(d_model=128, d_ff=1024, num_heads=4, d_kv=32, num_enc_layers=4, num_dec_layers=4)
model = TIGER(n_beams=given["beams"], max_len=given["history"], device="cpu", scoring="beam", **shape)
model._build_semantic_ids(codes)
model.model = TIGERSeq2Seq(level_sizes=model.level_sizes, **shape)
model.iid_map = dict.fromkeys(range(len(codes)))
model.device_, model.pad_idx = "cpu", model.total_items
assert model.total_items == len(codes)
model.enc_token_table = np.zeros((len(codes) + 1, len(model.level_sizes)), dtype="int64")
model.enc_token_table[:-1] = model.sid_table + model.model.offsets.numpy()
taken = []
for history in given["histories"]:
    started, busy = time.perf_counter(), time.process_time()
    scores = model.score(0, history)
    taken.append((time.perf_counter() - started, time.process_time() - busy))
    assert int((scores > -1e9).sum()) == given["beams"]
print(json.dumps(taken))
"""


def random_codes(items: int, seed: int = 0) -> Any:
    """Unique SIDs, (items, 3)."""
    n = np.random.default_rng(seed).choice(CODES**3, items, replace=False)
    return np.stack(np.unravel_index(n, (CODES,) * 3), axis=1).astype(np.int32)


def requests(items: int, batch: int, seed: int = 0) -> Packed:
    """Requests with random histories."""
    item_RT = torch.from_numpy(np.random.default_rng(seed).integers(0, items, (batch, HISTORY)))
    zeros_RT, zeros_R = torch.zeros_like(item_RT), torch.zeros(batch, dtype=torch.int64)
    nowhere_RT3 = torch.zeros(batch, HISTORY, 3)
    return Packed(item_RT, zeros_RT, zeros_RT.bool(), zeros_RT, zeros_RT, zeros_RT, zeros_R + HISTORY, zeros_R,
                  nowhere_RT3, nowhere_RT3[:, 0])  # fmt: skip


def tiger(codes_NL: Any, sizes: tuple[int, ...], beams: int) -> Generated:
    """Ours, untrained."""
    torch.manual_seed(0)
    config = GenerateConfig(
        encoder="full", pointer=False, nearness=False, time=False, distance=False, history=HISTORY, beams=beams, **SHAPE
    )
    return Generated(Tiger(codes_NL, sizes, config).eval(), Trie(codes_NL), beams)


def prefix_function(codes_NL: Any) -> Callable[[int, torch.Tensor], list[int]]:
    """The trie as users write it."""
    children: dict[tuple[int, ...], set[int]] = {}
    for sid in (codes_NL + FIRST + CODES * np.arange(codes_NL.shape[1])).tolist():
        for level, token in enumerate(sid):
            children.setdefault(tuple(sid[:level]), set()).add(token)
    lists = {prefix: sorted(tokens) for prefix, tokens in children.items()}
    return lambda request, sent: lists.get(tuple(sent[1:].tolist()), [PADDING])


Seconds = tuple[float, float]
"""By the clock, and of the processor."""


def fastest(jobs: dict[str, Callable[[], Any]], rounds: int) -> dict[str, Seconds]:
    """Seconds of each, fastest of the rounds after one to warm up; they take turns."""
    taken: dict[str, list[Seconds]] = {name: [] for name in jobs}
    for _ in range(rounds + 1):
        for name, job in jobs.items():
            started, busy = time.perf_counter(), time.process_time()
            job()
            taken[name].append((time.perf_counter() - started, time.process_time() - busy))
    return {name: least(of_job[1:]) for name, of_job in taken.items()}


def least(taken: list[Seconds]) -> Seconds:
    """The least of each."""
    return min(clock for clock, _ in taken), min(busy for _, busy in taken)


def compared(ours: Seconds, theirs: Seconds, peer: str, digits: int = 4) -> dict[str, float]:
    """Seconds and ratios, as they are written."""
    figures: dict[str, float] = {}
    for unit, a, b in zip(("s", "processor s"), ours, theirs, strict=True):
        figures |= {
            f"ours, {unit}": round(a, digits),
            f"{peer}, {unit}": round(b, 3),
            f"ratio, {unit}": round(b / a, 1),
        }
    return figures


def beside_transformers(batch: int, items: int, beams: int, rounds: int) -> dict[str, float]:
    """Seconds of a batch, and the ratio."""
    codes_NL = random_codes(items)
    ours = tiger(codes_NL, (CODES,) * 3, beams)
    theirs = to_transformers(ours.generator.network)  # type: ignore[arg-type]
    allowed, asked = prefix_function(codes_NL), requests(items, batch)
    ids = (ours.generator.codes_NL[asked.item_RT] + FIRST + CODES * torch.arange(3)).flatten(1)

    def generate() -> Any:
        return theirs.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), num_beams=beams, num_return_sequences=beams,
            max_new_tokens=3, do_sample=False, prefix_allowed_tokens_fn=allowed,
        )  # fmt: skip

    best = fastest({"ours": lambda: ours.top(asked, beams), "transformers": generate}, rounds)
    return compared(best["ours"], best["transformers"], "transformers")


def beside_cornac(python: str, items: int, beams: int, users: int) -> dict[str, Any]:
    """Seconds a user, and the ratios, with ours one at a time and 32 at a time."""
    codes_NL, asked = random_codes(items), requests(items, 32)
    given = {"codes": codes_NL.tolist(), "beams": beams, "history": HISTORY, "threads": torch.get_num_threads(),
             "histories": asked.item_RT[:users].tolist()}  # fmt: skip
    ran = subprocess.run([python, "-c", PEER], input=json.dumps(given), capture_output=True, text=True)
    if ran.returncode:
        tail = ran.stderr.strip().splitlines()[-1:] or ["no message"]
        return {"not measured": f"no working cornac ({tail[0]}); pip install cornac==3.0.1 transformers"}
    theirs = least([(clock, busy) for clock, busy in json.loads(ran.stdout.splitlines()[-1])[1:]])
    with_fourth = np.hstack([codes_NL, np.zeros((items, 1), dtype=np.int32)])
    ours = tiger(with_fourth, (*(CODES,) * 3, 1), beams)
    found: dict[str, Any] = {}
    for batch in (1, 32):
        some = requests(items, batch)
        clock, busy = fastest({"ours": lambda some=some: ours.top(some, beams)}, 9)["ours"]  # type: ignore[misc]
        found[f"batch {batch}, a user"] = compared((clock / batch, busy / batch), theirs, "cornac", 5)
    return found


def trie(items: int, radius_km: float, users: int = 32) -> dict[str, Any]:
    """Memory and time of the trie, and of what is left of it within reach."""
    rng = np.random.default_rng(0)
    city_N = rng.integers(0, 100, items)
    lat_N = rng.uniform(20, 50, 100)[city_N] + rng.normal(0, 0.09, items)
    lon_N = rng.uniform(80, 120, 100)[city_N] + rng.normal(0, 0.11, items)
    codes_NL = random_codes(items)
    started = time.perf_counter()
    whole = Trie(codes_NL)
    built = time.perf_counter() - started
    index, user_B = SpatialIndex(lat_N, lon_N), rng.integers(0, items, users)
    reach = index.within(lat_N[user_B], lon_N[user_B], radius_km)
    rows = [reach.of(user) for user in range(users)]
    jobs = {"find": lambda: index.within(lat_N[user_B], lon_N[user_B], radius_km), "mask": lambda: whole.only(rows)}
    best = fastest(jobs, 5)
    return {
        "items": items, "build, s": round(built, 2), "MiB": round(whole.nbytes / 2**20, 1),
        "items within reach, mean": round(float(np.mean([len(of_user) for of_user in rows]))),
        "find what is within reach, ms a user": round(1e3 * best["find"][0] / users, 3),
        "mask, ms a user": round(1e3 * best["mask"][0] / users, 3),
    }  # fmt: skip


def main() -> None:
    """Measure and write the cell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--cornac-python", default="", help="interpreter of an environment that has cornac")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    metrics: dict[str, Any] = {"threads": args.threads, "load": round(os.getloadavg()[0], 1)}
    for batch in (1, 32):
        metrics[f"transformers, batch {batch}"] = beside_transformers(batch, 50_000, 50, args.rounds)
        print(f"batch {batch}", metrics[f"transformers, batch {batch}"], flush=True)
    if args.cornac_python:
        metrics["cornac"] = beside_cornac(args.cornac_python, 20_000, 20, 1 + 2 * args.rounds)
    else:
        metrics["cornac"] = {"not measured": "pip install cornac==3.0.1 transformers, then --cornac-python PYTHON"}
    print("cornac", metrics["cornac"], flush=True)
    metrics["trie"] = trie(1_000_000, 5.0)
    print("trie", metrics["trie"])
    write_json(RESULTS / "decode_speed.json", {
        "experiment": "bench", "dataset": "synthetic", "method": "lgsid", "model": "tiger", "seed": 0,
        "metrics": metrics, "seconds": None, "peak_mib": round(peak_memory_mib()), "device": "cpu",
        "config_sha256": sha256_json([SHAPE, CODES, HISTORY, args.rounds, args.threads]), "versions": versions(),
    })  # fmt: skip


if __name__ == "__main__":
    main()
