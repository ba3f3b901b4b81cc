"""The audit of the invented release, in numbers worked out by hand (tests/fixtures/make_published.py says who is right
where).
"""

from math import comb
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_hex

from kvsteer_lab.figures.style import COLORS, ONE_COLUMN, TWO_COLUMNS
from kvsteer_lab.published.auditing import audit
from kvsteer_lab.published.figures import plot_audit, plot_published_gains
from kvsteer_lab.published.release import read_release
from kvsteer_lab.published.reporting import report
from kvsteer_lab.stats.intervals import wilson

FIXTURE = Path(__file__).parents[1] / "fixtures" / "published"
ARC = "Invented-7M-Instruct_arc-oai_0"


@pytest.fixture(scope="module")
def found():
    return audit(FIXTURE)


def two_sided(gained, lost):
    """Exact McNemar by counting: both tails of a fair coin thrown gained + lost times."""
    n = gained + lost
    return min(1.0, 2 * sum(comb(n, k) for k in range(min(gained, lost) + 1)) / 2**n)


def of(table, end, **where):
    part = table[table.file.str.endswith(end)]
    for name, value in where.items():
        part = part[part[name] == value]
    assert len(part) == 1, part
    return part.iloc[0]


def test_which_files_match(found):
    assert (found.matched, found.total, found.complete) == (10, 13, False)
    assert str(found) == "10 of 13 files match their own metrics"
    wrong = found.checks[~found.checks.matches]
    assert wrong[["metric", "claimed"]].values.tolist() == [
        ["last_letter", 0.75]
    ] and wrong.rescored.item() == pytest.approx(16 / 24)
    assert (found.checks.changed == 0).all()


def test_damaged_files_are_named_with_the_reason(found):
    reasons = {Path(row.file).name: row.reason for row in found.problems.itertuples()}
    assert set(reasons) == {"truncated.json", "without_samples.json"}
    assert (
        reasons["truncated.json"].startswith("is cut off") and reasons["without_samples.json"] == "has no key 'samples'"
    )


def test_a_language_models_verdicts_are_taken_as_stored(found):
    row = of(found.checks, "prompted.json", metric="llm_extract")
    assert row.by == "stored" and row.rescored == 15 / 24


def test_accuracies_have_wilson_intervals(found):
    row = of(found.runs, f"{ARC}_baseline/plain.json")
    assert row.accuracy == 0.5 and (row.low, row.high) == wilson(12, 24)
    assert row.accuracy_last_letter == 11 / 24


@pytest.mark.parametrize(
    ("file", "against", "gained", "lost", "questions"),
    [
        (f"/steering_results/{ARC}/cv6.json", "baseline", 10, 2, 24),
        (f"/steering_results/{ARC}/cv6.json", "CoT", 8, 2, 24),
        ("cv8_wrong_metrics.json", "baseline", 7, 3, 24),
        (f"cot_steering_results/{ARC}/cv6.json", "baseline", 6, 0, 24),
        (f"cot_steering_results/{ARC}/cv6.json", "CoT", 4, 0, 24),
        ("gsm8k-oai_0/cv4.json", "baseline", 3, 1, 8),
        ("prompted.json", "baseline", 2, 0, 24),
    ],
)
def test_paired_comparisons(found, file, against, gained, lost, questions):
    table = found.comparisons.assign(file="/" + found.comparisons.file)
    row = of(table, file, against=against)
    assert (row.gained, row.lost, row.n) == (gained, lost, questions)
    assert row.gain == pytest.approx((gained - lost) / questions) and row.p == pytest.approx(two_sided(gained, lost))
    assert row.low <= row.gain <= row.high


def test_holm_counts_every_run_of_the_family(found):
    family = found.comparisons[found.comparisons.family == "steering against baseline"]
    p = dict(
        zip(
            family.setting + " " + family.kind + " " + family.task,
            zip(family.p, family.p_holm, strict=True),
            strict=True,
        )
    )
    assert len(p) == 4
    (both, both_holm), (best, best_holm) = p["cv6 20x5 steered + CoT arc-oai"], p["cv6 20x5 steered arc-oai"]
    assert both_holm == pytest.approx(4 * both) and best_holm == pytest.approx(max(4 * both, 3 * best))


def test_the_best_run_is_marked_among_all_of_its_cell(found):
    steered = found.comparisons[
        (found.comparisons.against == "baseline")
        & (found.comparisons.kind == "steered")
        & (found.comparisons.group == "steering")
    ]
    assert steered.set_index("file").is_best.to_dict() == {
        f"steering_results/{ARC}/cv6.json": True,
        f"steering_results/{ARC}/cv8_wrong_metrics.json": False,
        "steering_results/Invented-7M-Instruct_gsm8k-oai_0/cv4.json": True,
    }
    assert found.effects[["best_of", "setting"]].values.tolist() == [[2, "cv6 20x5"], [1, "cv4 20x5"]]


def test_the_same_generations_count_once(found):
    twin = of(found.comparisons, "cv6_again.json", against="baseline")
    first = of(found.comparisons, f"ablation_results/{ARC}/cv6.json", against="baseline")
    assert twin.same_as == first.file and twin.p_holm == first.p_holm == first.p


def test_what_cannot_be_compared_says_why(found):
    row = of(found.comparisons, "cv4.json", against="CoT")
    assert np.isnan(row.p) and "there is no CoT" in row.note


def test_other_rules_tell_other_gains(found):
    row = of(
        found.extractors[found.extractors.file.str.startswith(f"steering_results/{ARC}/cv6")],
        "cv6.json",
        against="baseline",
        rule="last_letter",
    )
    assert row.gain == pytest.approx(20 / 24 - 11 / 24)
    strict = of(
        found.extractors[found.extractors.file.str.startswith(f"steering_results/{ARC}/cv6")],
        "cv6.json",
        against="baseline",
        rule="strict",
    )
    assert row.low < row.gain < row.high and strict.low < strict.gain < strict.high < 0
    assert found.extractors.set_index(["file", "against", "rule"]).index.is_unique
    own = of(found.comparisons, f"steering_results/{ARC}/cv6.json", against="baseline", kind="steered")
    main = of(found.extractors[found.extractors.file == own.file], "", against="baseline", rule="augmented_extract")
    assert (main.low, main.high) == (own.low, own.high)
    assert strict.gain == pytest.approx(-0.5), "its replies name the letter without saying that it is the answer"


def test_lengths_and_loops(found):
    row = of(found.texts[found.texts.group == "steering"], f"steering_results/{ARC}/cv8_wrong_metrics.json")
    assert (
        row.loop == pytest.approx(1 / 24)
        and row.half_repeated == pytest.approx(1 / 24)
        and row.reasoned == pytest.approx(23 / 24)
    )
    assert (row.loop_low, row.loop_high) == (row.half_repeated_low, row.half_repeated_high) == wilson(1, 24)
    prompted = of(found.texts, "prompted.json")
    assert prompted.words == 28 and prompted.ratio == 7 and (prompted.ratio_low, prompted.ratio_high) == (7, 7)


def test_style_adoption(found):
    rows = found.styles.set_index("style")
    assert rows.adopted.to_dict() == {"causal_chain": 0.5, "stepwise": 1.0} and (rows.without == 0).all()
    assert (rows.low["causal_chain"], rows.high["causal_chain"]) == wilson(3, 6)


def test_latency_ratios(found):
    rows = found.latency.set_index("method")
    assert rows.ratio.round(9).tolist() == [1, 1, 2, 1.1]
    assert rows.ratio_per_answer.round(9).tolist() == [1, 2, 3, 1.1]
    assert rows.loc["baseline", ["ms_per_token", "fastest", "slowest"]].tolist() == pytest.approx([11, 10, 12])


def test_a_release_in_memory_gives_the_same_audit(found):
    again = audit(read_release(FIXTURE))
    for name, table in found.tables.items():
        assert table.equals(again.tables[name]), name


def test_the_report_fits_a_terminal_and_ends_with_the_count(found):
    lines = report(found).splitlines()
    assert max(map(len, lines)) <= 80 and lines[-1] == str(found)
    assert any("cv8_wrong_metrics" in line for line in lines) and any("truncated.json" in line for line in lines)


def test_tables_are_written_as_csv(found, tmp_path):
    paths = found.save(tmp_path / "out")
    assert sorted(path.name for path in paths) == sorted(f"{name}.csv" for name in found.tables)
    assert len((tmp_path / "out" / "runs.csv").read_text().splitlines()) == 1 + len(found.runs)


def test_figures_draw_what_the_tables_say(found):
    figures = plot_audit(found)
    assert set(figures) == {"gains", "rules", "texts", "styles", "latency"}
    drawn = sorted(line.get_xdata()[0] for line in figures["gains"].axes[0].lines if line.get_marker() in ("o", "s"))
    tested = found.comparisons[
        (found.comparisons.against == "baseline") & found.comparisons.group.isin(("steering", "prompting"))
    ]
    assert drawn == pytest.approx(sorted(100 * tested.gain))
    assert [bar.get_width() for bar in figures["latency"].axes[0].patches] == pytest.approx(
        found.latency.ms_per_token.tolist()
    )
    ratios = sorted(line.get_xdata()[0] for line in figures["texts"].axes[0].lines if line.get_marker() in ("o", "s"))
    assert ratios == pytest.approx(
        sorted(found.texts[found.texts.ratio.notna() & (found.texts.group == "steering")].ratio)
    )
    style = {
        line.get_label(): line.get_xdata()[0]
        for line in figures["styles"].axes[0].lines
        if not line.get_label().startswith("_")
    }
    assert style == {"steered towards it": 100.0, "baseline": 0.0}
    strict = next(line for line in figures["rules"].axes[1].lines if line.get_label() == "strict")
    asked = found.extractors[(found.extractors.against == "baseline") & (found.extractors.rule == "strict")]
    assert sorted(strict.get_xdata()) == pytest.approx(sorted(100 * asked.gain))


def test_runs_with_the_prompt_are_told_from_those_without(found):
    figures = plot_audit(found)
    for name in ("gains", "rules", "texts"):
        labels = [tick.get_text() for tick in figures[name].axes[0].get_yticklabels()]
        assert len(set(labels)) == len(labels) and sum(label.endswith("cv6 20x5 + CoT") for label in labels) == 1, (
            labels
        )


def test_intervals_and_ends_are_drawn_and_rules_have_no_colour_of_a_kind(found):
    figures = plot_audit(found)
    rules, asked = figures["rules"].axes, found.extractors[found.extractors.against == "baseline"]
    stated = asked.rule.str.startswith("strict")
    for axis, part in zip(rules, (asked[~stated], asked[stated]), strict=True):
        ends = [[x for x, _ in segment] for lines in axis.collections for segment in lines.get_segments()]
        assert np.allclose(sorted(ends), sorted([100 * row.low, 100 * row.high] for row in part.itertuples()))
        marks = [y for line in axis.lines if line.get_marker() != "None" for y in line.get_ydata()]
        assert all(min(abs(y - row) for row in axis.get_yticks()) <= 0.34 for y in marks), "marks lie around their row"
    assert rules[0].get_xlim()[0] > rules[1].get_xlim()[0] + 20, (
        "rules that ask for a stated answer have their own axis"
    )
    lines = [line for axis in rules for line in axis.lines]
    used = {to_hex(line.get_color()) for line in lines} | {to_hex(line.get_markerfacecolor()) for line in lines}
    assert not used & set(COLORS.values())
    spans = [tuple(line.get_xdata()) for line in figures["latency"].axes[0].lines]
    assert spans == [pytest.approx((row.fastest, row.slowest)) for row in found.latency.itertuples()]
    drawn = [tuple(line.get_xdata()) for line in figures["texts"].axes[1].lines if len(line.get_xdata()) == 2]
    shown = found.texts[found.texts.ratio.notna() & (found.texts.group == "steering")]
    for row in shown.itertuples():
        assert any(span == pytest.approx((100 * row.loop_low, 100 * row.loop_high)) for span in drawn)
    assert all(figure.get_figwidth() in (ONE_COLUMN, TWO_COLUMNS) for figure in figures.values())


def test_only_a_p_below_five_percent_after_holm_fills_a_mark(found):
    full = [
        line
        for line in plot_audit(found)["gains"].axes[0].lines
        if line.get_marker() in ("o", "s") and line.get_markerfacecolor() != "white"
    ]
    assert full == []
    surely = found.comparisons.assign(
        p_holm=found.comparisons.p_holm.where(found.comparisons.setting != "cv6 20x5", 0.01)
    )
    axis = plot_published_gains(surely[surely.gain.notna() & (surely.group == "steering")]).axes[0]
    assert sum(line.get_marker() in ("o", "s") and line.get_markerfacecolor() != "white" for line in axis.lines) == 2
