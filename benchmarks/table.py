"""Write the tables in README.md from the JSON files in results/."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
BEGIN, END = "<!-- table: begin -->", "<!-- table: end -->"
PAIR_BEGIN, PAIR_END = "<!-- pair: begin -->", "<!-- pair: end -->"


def main() -> None:
    """Replace what stands between the README's two marks."""
    lines = ["| benchmark | what | measured | target |", "|---|---|---|---|"]
    for path in sorted((HERE / "results").glob("*.json")):
        found = json.loads(path.read_text(encoding="utf-8"))
        name = path.stem.replace("_", " ")
        for what, measured, target in ROWS[found["benchmark"].split("-")[0]](found["results"]):
            lines.append(f"| {name} | {what} | {measured} | {target} |")
    _replace(BEGIN, END, lines)
    evaluation = HERE / "results" / "evaluation.json"
    if evaluation.is_file():
        _replace(PAIR_BEGIN, PAIR_END, list(_pair(json.loads(evaluation.read_text(encoding="utf-8"))["results"])))


def _replace(begin: str, end: str, lines: list[str]) -> None:
    readme = HERE / "README.md"
    before, _, rest = readme.read_text(encoding="utf-8").partition(begin)
    after = rest.partition(end)[2]
    readme.write_text(f"{before}{begin}\n" + "\n".join(lines) + f"\n{end}{after}", encoding="utf-8")


def _pair(found: dict[str, Any]) -> Iterator[str]:
    """A table for each model and task: every intervention against the baseline, the chain-of-thought prompt and the
    forced first token.
    """
    families = {
        against: {(row["model"], row["task"], row["intervention"]): row for row in rows}
        for against, rows in found["families"].items()
    }
    for run in found["runs"]:
        yield f"\n**{run['model']}, {run['task']}**\n"
        heads = [
            "intervention",
            "accuracy",
            "over the baseline, points",
            "p",
            "over the CoT prompt, p",
            "beyond the forced token, points",
            "p",
        ]
        heads += ["reasoned", "tokens", "p of random"]
        yield f"| {' | '.join(heads)} |"
        yield "|---" * len(heads) + "|"
        for row in run["summary"]:
            label = row["intervention"]
            key = (run["model"], run["task"], label)
            base, cot, forced = (
                families[against].get(key) for against in ("baseline", "CoT prompt", "forced, 1 token")
            )
            columns = [
                label,
                f"{row['accuracy']:.3f} [{row['low']:.3f}, {row['high']:.3f}]",
                _points(base),
                _p(base),
                _p(cot),
                _points(forced),
                _p(forced),
            ]
            columns += [
                f"{row['reasoned']:.2f}",
                f"{row['tokens']:.1f}",
                "" if row.get("p_random") is None else f"{row['p_random']:.3f}",
            ]
            yield f"| {' | '.join(columns)} |"
        cells = [f"{c['method']}: {c['variant']}, dose {c['dose']:.2g}" for c in run["cells"] if c["chosen"]]
        yield (
            f"\nChosen on development questions, each among {len(run['cells']) // len(cells)} cells:"
            f" {'; '.join(cells)}."
        )


def _points(row: dict[str, Any] | None) -> str:
    return "" if row is None else f"{100 * row['gain']:+.1f} [{100 * row['low']:+.1f}, {100 * row['high']:+.1f}]"


def _p(row: dict[str, Any] | None) -> str:
    return "" if row is None else "<0.001" if row["p_holm"] < 0.001 else f"{row['p_holm']:.3f}"


def _times(ratio: dict[str, float], digits: int = 3) -> str:
    interval = f" [{ratio['low']:.{digits}f}, {ratio['high']:.{digits}f}]" if ratio["n"] > 2 else ""
    return f"×{ratio['median']:.{digits}f}{interval}"


def _decode(results: list[dict[str, Any]]) -> Iterator[tuple[str, str, str]]:
    for r in results:
        ms = {name: r["ms"][name]["median"] for name in ("plain", "steered")}
        ways = ", ".join(f"{way} {_times(ratio)}" for way, ratio in r.get("activation_over_plain", {}).items())
        if r["what"] == "time a token without a cache":
            slow = ", ".join(
                f"{name.removesuffix(', no cache')} {_times(ratio, 2)}" for name, ratio in r["over_plain"].items()
            )
            steered = ", ".join(
                f"{name.removesuffix(', no cache')} {_times(ratio, 2)}" for name, ratio in r["over_steered"].items()
            )
            yield (
                f"time a token without a cache, batch {r['batch']}",
                f"over plain with one: {slow}; over cache steering: {steered}",
                "stated",
            )
            continue
        measured = f"{_times(r['steered_over_plain'])}, {ms['plain']:.2f} → {ms['steered']:.2f} ms"
        if ways:
            measured += f"; activation steering: {ways}"
        if r["what"] == "time a token":
            yield (
                f"time a token, batch {r['batch']}",
                f"{measured} (nothing added: {_times(r['nothing_over_plain'])})",
                "≤ ×1.02",
            )
        else:
            parts = (
                f"; +{r['overhead_ms']['median']:.2f} ms, of it trace {r['trace_ms']['median']:.2f}, edit"
                f" {r['edit_ms']['median']:.2f}"
            )
            yield f"first token, batch {r['batch']}, prompts of {r['prompt_tokens']} tokens", measured + parts, "stated"


def _questions(results: list[dict[str, Any]]) -> Iterator[tuple[str, str, str]]:
    for r in results:
        rates = ", ".join(f"{name} {rate['median']:.0f}" for name, rate in r["questions_a_second"].items())
        yield (
            f"{r['questions']} questions, {r['what']}, batch over loop",
            f"{_times(r['loop_over_batch'], 1)}; questions a second: {rates}",
            "tiny ≥ ×8",
        )


def _grid(r: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    same = f"{min(r['same_tokens'].values())} of {r['settings']} the same"
    yield (
        f"{r['settings']} settings, loop of `kv.generate` over one batch",
        f"{_times(r['loop_over_grid'], 1)}; tokens: {same}",
        "tiny ≥ ×20, 12 layers ≥ ×10",
    )
    yield f"{r['settings']} settings, plain loop over one batch", _times(r["plain_loop_over_grid"], 1), ""


def _extract(results: list[dict[str, Any]]) -> Iterator[tuple[str, str, str]]:
    for r in results:
        if r["what"] == "time":
            low, high = r["prompt_tokens"]
            ratios = ", ".join(f"batch {b} {_times(ratio, 2)}" for b, ratio in r["paper_over_ours"].items())
            what = f"the paper's procedure over ours, prompts of {low} to {high} tokens"
            yield what, f"{ratios}; vectors within {r['largest_difference']:.0e}", "tiny ≥ ×3, 12 layers ≥ ×1.3"
        else:
            who = "ours" if r["who"] == "ours" else "the paper's"
            yield (
                f"peak memory, {who}, {r['pairs']} pairs",
                f"{r['peak_mb']:.0f} MB ({r['extraction_mb']:.0f} MB of it for this set)",
                "no growth with N",
            )


def _replies(results: list[dict[str, Any]]) -> Iterator[tuple[str, str, str]]:
    for r in results:
        if r["what"] == "replies":
            yield (
                f"row-steps of {r['replies']} natural replies, fixed batches over batches that finished rows leave",
                f"×{r['fewer_row_steps']:.2f} ({r['row_steps_of_fixed_batches']:,} over {r['row_steps']:,}, for"
                f" {r['tokens']:,} tokens)",
                "≥ ×2.5",
            )
            yield (
                f"time of {r['timed']} of them, prefill included: transformers' own batches over ours",
                f"×{r['faster_than_transformers']:.2f} ({r['seconds_transformers']:.0f} over"
                f" {r['seconds_leaving']:.0f} s; our own fixed batches {r['seconds_fixed']:.0f} s);"
                f" {r['same_texts']} of {r['timed']} texts the same",
                "≥ ×2.5",
            )
        else:
            shared = "share" in r["what"]
            yield (
                f"{r['what']}: a plain loop over ours, {r['prompt_tokens'] // r['prompts']} tokens a prompt",
                f"{_times(r['loop_over_extract'], 2)}; vectors within {r['largest_error']:.0e}",
                "≥ ×3" if shared else "≥ ×1",
            )


def _ablation(r: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    ratios = ", ".join(f"{name} {_times(ratio, 1)}" for name, ratio in r["over_forked"].items())
    what = (
        f"{r['masks']} single-layer and leave-one-out masks of {r['questions']} questions, brute force over one"
        " forked run"
    )
    yield what, f"{ratios}; texts: {min(r['same_texts'].values())} of {r['texts']} the same", "stated"


def _explorer(r: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    goals = {
        "slider to first steered token": "< 300 ms",
        "slider to whole texts": "< 1.5 s",
        "cancel of a sweep": "< 1 s",
    }
    for what, seconds in r.items():
        median, low, high = (f"{seconds[name] * 1e3:.0f}" for name in ("median", "q1", "q3"))
        yield what, f"{median} ms, quartiles {low} and {high}, of {seconds['n']} (wall)", goals.get(what, "stated")


def _explorer_before(r: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    for name, now in r["today"].items():
        was = r["before"].get(name)
        said = f"{now['median']:.2f} s (CPU)" if was is None else f"{was['median']:.2f} → {now['median']:.2f} s (CPU)"
        yield name, f"{said}, of {now['n']}", "< 1 s" if name.startswith("cancel") else "stated"


def _import_time(r: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    yield (
        "`import kvsteer_lab`",
        f"{r['cpu_s']['median'] * 1e3:.0f} ms CPU, {r['wall_s']['median'] * 1e3:.0f} ms wall; no torch",
        "< 300 ms",
    )


def _gsm8k(r: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    prompts = r["prompt_tokens"]["positive"]
    seconds = ", ".join(f"{name} {s['clock']:.1f} s" for name, s in r["seconds"].items())
    yield (
        f"prompts of {prompts['least']} to {prompts['most']} tokens",
        f"{seconds}; {r['texts_changed']} texts changed",
        "runs",
    )


def _evaluation(found: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    for run in found["runs"]:
        keys = {"model": run["model"], "task": run["task"], "intervention": "cache steering"}
        gains = {a: next(row for row in rows if keys.items() <= row.items()) for a, rows in found["families"].items()}
        measured = (
            f"{_points(gains['baseline'])} points over the baseline; beyond the forced first token"
            f" {_points(gains['forced, 1 token'])}"
        )
        yield (
            f"{run['model']}, {run['task']}, {gains['baseline']['n']} test questions: cache steering",
            measured,
            "stated",
        )


def _coverage(found: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    for what, r in found["summary"].items():
        n = len(found["settings"][what])
        measured = (
            f"gains: least {r['gain_least']:.3f}, mean {r['gain_mean']:.3f} (bootstrap: {r['bootstrap_least']:.3f},"
            f" {r['bootstrap_mean']:.3f}); shares: least {r['share_least']:.3f}, mean {r['share_mean']:.3f}; the exact"
            f" test rejects a true null in at most {r['level_most']:.3f}"
        )
        yield f"coverage of 95% intervals, {what}, {n} settings", measured, "mean ≥ 0.945"


def _browser(r: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    named = {
        "first": ("letting go of a slider to the first steered token on the page", "< 300 ms"),
        "full": (f"to the whole text of {r['tokens']} tokens", "< 1.5 s"),
        "coloured": ("to its coloured tokens", "stated"),
        "cancel": ("cancel of a sweep, click to the line that says so", "< 1 s"),
    }
    for name, (what, target) in named.items():
        ms = r[f"{name}_ms"]
        yield what, f"{ms['median']:.0f} ms, quartiles {ms['q1']:.0f} and {ms['q3']:.0f}, of {ms['n']} (wall)", target


def _analyses(r: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    for name, found in r["compared"].items():
        ours, theirs = (found["peak_megabytes"][side] for side in ("shared", "plain"))
        yield (
            f"{name}, plain passes over shared ones",
            f"{_times(found['plain_over_shared'], 1)}; memory {theirs:.0f} → {ours:.0f} MB",
            "stated",
        )
    if r["chapter"]:
        parts = ", ".join(f"{name} {found['seconds']:.0f}" for name, found in r["chapter"].items())
        yield f"analyses of reading at a quick size, {r['layers']} layers", f"{r['chapter_seconds']:.0f} s: {parts}", ""


def _control_band(results: list[dict[str, Any]]) -> Iterator[tuple[str, str, str]]:
    for r in results:
        yield (
            f"steering, random controls, two baselines: {r['replies']:,} replies of {r['mean_tokens']:.0f} tokens",
            f"{r['seconds'] / 60:.1f} min of one core; the bar moves after {r['first_movement_seconds']:.1f} s, then at"
            f" least every {r['longest_stillness_seconds']:.0f} s; peak {r['peak_gib']:.1f} GiB",
            "< 15 min, < 5 s",
        )


def _backends(found: Any) -> Iterator[tuple[str, str, str]]:
    for name, one in found["backends"].items():
        speed = f"{one['requests_a_cpu_second']:.1f} (CPU time), {one['requests_a_second']:.1f} (wall)"
        start = f"{one['start_s']:.0f} s"
        if "start_cpu_s" in one:  # beside other work, of which the wall clock would tell
            speed = f"{one['requests_a_cpu_second']:.2f} (CPU time), ×{one['over_transformers_cpu']:.2f}"
            start = f"{one['start_cpu_s']:.1f} s of CPU time"
        yield (
            f"{name}: rows with the tokens of transformers; requests a second; peak memory; start",
            f"{one['equal']} of {one['rows']}; {speed}; {one['peak_megabytes']:,.0f} MB; {start}",
            "reported" if ", " in name else "all equal",
        )


def _serving(r: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    kind = "cpu" if "steered_over_unsteered_cpu" in r else "wall"
    over, wall = r[f"steered_over_unsteered_{kind}"], r["steered_over_unsteered_wall"]
    load = f"{r['machine']['load_before'][0]:.0f} to {r['machine']['load_after'][0]:.0f}"
    yield (
        "requests a second, steered over unsteered",
        f"×{over['median']:.2f} ({'CPU time' if kind == 'cpu' else 'wall'}), ×{wall['median']:.2f} (wall, load {load})",
        "≥ 0.97",
    )
    first = {arm: served["first_token_alone_s"] * 1e3 for arm, served in r["served"].items()}
    yield (
        "first token of one request",
        f"{first['steered']:.0f} ms steered, {first['unsteered']:.0f} ms not (wall)",
        "stated",
    )
    yield "steered requests, served over our own batch", f"×{r['served_over_own_batch']:.1f}", "2 on a CPU"


ROWS = {
    "analyses": _analyses,
    "backends": _backends,
    "backends_llama_cpp": _backends,
    "control_band": _control_band,
    "browser": _browser,
    "ablation": _ablation,
    "coverage": _coverage,
    "decode": _decode,
    "evaluation": _evaluation,
    "explorer": _explorer,
    "explorer_before": _explorer_before,
    "extract": _extract,
    "grid": _grid,
    "gsm8k_pipeline": _gsm8k,
    "import_time": _import_time,
    "questions": _questions,
    "replies": _replies,
    "serving": _serving,
}

if __name__ == "__main__":
    main()
