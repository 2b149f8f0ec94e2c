"""Tables of docs/align.md: the ablation, the default alignment, the reward model."""

from __future__ import annotations

import json

from cells import REPOSITORY, Cell, cells, mean_sd, table

ALIGNMENT_ROWS = {
    "none": "no alignment",
    "pointwise": "G-DPO, point-wise reward",
    "listwise": "+ list-wise (pairwise) reward",
    "density": "+ density-aware sampling",
    "mixed": "+ domain-mixed pairs",
    "regularised": "+ similarity regulariser (the paper's full method)",
    "gdpo": "full G-DPO, our reward",
    "contrast": "direct: list-wise contrast",
    "distil": "direct: geographic teacher",
}


EFFICIENT = {
    "distil-full": "whole catalogue, as shipped",
    "distil": "sample of 2,500, LoRA and budget of the ablation",
}


def shipped() -> str:
    """The default alignment on whole catalogues, before and after, on items that training never saw."""
    rows = []
    for dataset in ("yelp-3states", "fsq-nyc"):
        group = [cell["metrics"] for cell in cells("ablation", f"{dataset}-distil-full-[0-9].json")]
        for time in ("before", "after") if group else ():

            def over(key: str, digits: int = 3, group: list[Cell] = group, time: str = time) -> str:
                return mean_sd([cell["parts"]["test"][time]["5"][key] for cell in group], digits)

            rows.append([
                f"`{dataset}`", time, str(len(group)), over("kept"), over("province"), over("city"), over("district"),
                over("distance_km", 1), over("category"), over("content"),
                *(mean_sd([cell["nmi"][time][level] for cell in group], 2) for level in ("province", "city")),
            ])  # fmt: skip
    columns = "catalogue | alignment | seeds | kept | P@5 | C@5 | T@5 | km | same category | content cosine"
    return table(f"{columns} | NMI province | NMI city", rows)


def ablation(dataset: str, part: str = "test") -> str:
    """The paper's ablation and the direct objectives, over seeds."""
    rows = []
    for method, name in ALIGNMENT_ROWS.items():
        group = [cell["metrics"] for cell in cells("ablation", f"{dataset}-{method}-[0-9].json")]
        if not group:
            continue

        def over(key: str, digits: int = 3, group: list[Cell] = group) -> str:
            return mean_sd([cell["parts"][part]["after"]["5"][key] for cell in group], digits)

        rows.append([
            name, str(len(group)), over("kept"), over("province"), over("city"), over("district"),
            over("distance_km", 1), over("category"),
            *(mean_sd([cell["nmi"]["after"][level] for cell in group], 2) for level in ("province", "city")),
            "–" if group[0]["efficiency"] is None else mean_sd([cell["efficiency"] for cell in group], 2),
        ])  # fmt: skip
    header = "yelp" if dataset.startswith("yelp") else "fsq"
    columns = f"{header} | seeds | kept | P@5 | C@5 | T@5 | km | same category | NMI province | NMI city | efficiency"
    return table(columns, rows)


REWARD_ROWS = {
    "pointwise": "point-wise, the paper's loss",
    "pairwise": "pairwise, the paper's loss",
    "default": "ours",
}


def rewards() -> str:
    """Pair-order accuracy of the reward's forms, fitted alone, over seeds."""
    rows = []
    for dataset in ("yelp-3states", "fsq-nyc"):
        for form, name in REWARD_ROWS.items():
            for sampling in ("density", "multiscale"):
                group = [cell["metrics"] for cell in cells("alignment", f"reward-{dataset}-{form}-{sampling}-*.json")]
                if group:
                    rows.append([dataset, name, sampling, *_accuracies(group)])
    header = "catalogue | reward | sampling | training anchors | held-out anchors | < 0.5 km | 0.5–2 | 2–10 | 10–50"
    return table(header + " | > 50 km | own prompts | region oracle", rows)


def _accuracies(group: list[Cell]) -> list[str]:
    """Training and held-out anchors, the latter by difference of distance, their own prompts, and the oracle."""

    def over(part: str) -> str:
        return _known([cell[part]["accuracy"] if cell[part] else None for cell in group], 3)

    bands = [
        _known([cell["held_out"]["bands"][band]["accuracy"] for cell in group], 2)
        for band in range(len(group[0]["held_out"]["bands"]))
    ]
    return [over("train"), over("held_out"), *bands, over("held_out_true"), over("region_oracle")]


def _known(values: list[float | None], digits: int) -> str:
    found = [value for value in values if value is not None]
    return mean_sd(found, digits) if found else "–"


def efficiency() -> str:
    """Frontier efficiency of the geographic teacher at three losses of meaning."""
    rows = []
    for dataset in ("yelp-3states", "fsq-nyc"):
        for method in EFFICIENT:
            group = [cell["metrics"] for cell in cells("ablation", f"{dataset}-{method}-[0-9].json")]
            if group:
                shares = [
                    mean_sd([cell["efficiency_at"][loss] for cell in group], 3) for loss in ("0.025", "0.05", "0.1")
                ]
                rows.append([f"`{dataset}`", EFFICIENT[method], str(len(group)), *shares])
    return table("catalogue | geographic teacher | seeds | at 2.5 % loss | at 5 % | at 10 %", rows)


def strangers() -> str:
    """What the encoder knows beyond what it was trained on: other items, other cities, prompts without a place."""
    rows = []
    for dataset in ("yelp-3states", "fsq-nyc"):
        group = [cell["metrics"] for cell in cells("ablation", f"{dataset}-distil-full-[0-9].json")]
        for part, name in (
            ("train", "trained on"),
            ("test", "new items, known cities"),
            ("unseen", "cities never seen"),
        ):
            if group and all(part in cell["parts"] for cell in group):
                rows.append([dataset, name, *_before_after(group, part, ("before", "after"), ())])
        if group:
            rows.append(
                [
                    dataset,
                    "prompt without its place",
                    *_before_after(group, "test", ("before", "after"), ("without_location",)),
                ]
            )
    columns = "catalogue | queries | kept before | after | C@5 before | after | T@5 before | after | km before | after"
    return table(columns, rows)


def _before_after(group: list[Cell], part: str, times: tuple[str, str], inside: tuple[str, ...]) -> list[str]:
    def figures(cell: Cell, time: str) -> Cell:
        at = cell["parts"][part]
        for key in inside:
            at = at[key]
        return dict(at[time]["5"])

    digits = {"kept": 3, "city": 3, "district": 3, "distance_km": 1}
    return [
        mean_sd([figures(cell, time)[name] for cell in group], places)
        for name, places in digits.items()
        for time in times
    ]


def training_step() -> str:
    """A training step beside peft's, and the dry run of a large catalogue."""
    path = REPOSITORY / "results" / "bench" / "training_step.json"
    found = json.loads(path.read_text(encoding="utf-8"))["metrics"]
    rows = [
        [name, f"{step['ours_seconds']:.2f}", f"{step['peft_seconds']:.2f}", f"{step['ratio']:.2f}"]
        for name, step in found.items()
        if isinstance(step, dict) and "ratio" in step
    ]
    text = table(f"64 prompts of {found['mean_tokens']:.0f} tokens | lgsid s | peft s | ratio", rows)
    large = found["estimate"]
    if large is None:
        return text
    return (
        f"{text}\n\nThe dry run of {large['items']:,} items with SmolLM2-135M says, after "
        f"{large['seconds_to_estimate']:.0f} s: {large['steps']:,} steps on {large['trained_on']:,} items, "
        f"{large['minutes'] / 60:.1f} hours with embedding on the same machine."
    )
