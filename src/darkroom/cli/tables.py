"""Tables printed by `darkroom history`, `compare` and `drift`; without a terminal, plain lines."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from darkroom.registry.snapshot import Registered

if TYPE_CHECKING:
    from darkroom.monitoring.accuracy import ServedAccuracy
    from darkroom.monitoring.samples import Comparison


def print_drift(found: "Comparison", picture: Path) -> None:
    """Print the table of drift checks, with the reasons below it.

    Args:
        found: a comparison of a window of answers with its reference.
        picture: the path of its plot.
    """
    report = found.report
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    for heading in ("reference", "window", "PSI", "test", "p"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    verdicts = {True: "drifted", False: "no drift", None: "too few rows"}
    for check in report.checks:
        if check.name == "label":
            name, test = f"share of {check.classes[0]}", f"V {check.statistic:.2f}"
            sides = [f"{values[0]:.1%}" for values in (check.reference, check.window)]
        else:
            name, test = f"{check.name}, median", f"KS {check.statistic:.2f}"
            sides = [f"{values[1]:.3g}" if values else "" for values in (check.reference, check.window)]
        p_value = f"{check.p_value:.1g}" if check.p_value > 1e-99 else "<1e-99"
        table.add_row(escape(name), *sides, f"{check.psi:.2f}", test, p_value, verdicts[check.drifted])
    console = Console(highlight=False, soft_wrap=True)
    console.print(table)
    of_version = f" of version {found.version}" if found.version else ""
    console.print(
        f"\n{report.n_reference} images in the reference, {report.n_window} predictions{of_version} in the window."
    )
    for line in [*report.reasons, *found.notes]:
        console.print(line, markup=False)
    if found.served.weeks:
        console.print(f"\naccuracy of what was served, by the {found.served.n_images} images with a true label:")
        console.print(_served(found.served))
    console.print(f"plot: {picture}", markup=False)


def _served(served: "ServedAccuracy") -> Table:
    table = Table(box=None, pad_edge=False)
    for heading in ("version", "week of", "labelled", "accuracy", "95 % interval"):
        table.add_column(heading, justify="right", no_wrap=True)
    for one in (*served.weeks, *served.versions):
        interval = " to ".join(f"{side:.1%}" for side in one.ci95)
        table.add_row(Text(one.version), one.week or "all", f"{one.n_labelled}", f"{one.accuracy:.1%}", interval)
    return table


N_CLASSES = 20  # shown of a comparison: those with the largest differences


def print_history(registered: Registered, *, hold_days: float | None) -> None:
    """Print which version was champion when and why, oldest first, and the present aliases.

    Args:
        hold_days: see print_hold.
    """
    console = Console(highlight=False)
    reigns = registered.reigns()
    aliases = ", ".join(f"{alias} -> {version}" for alias, version in sorted(registered.aliases.items())) or "none"
    if not console.is_terminal:
        for reign in reigns:
            until = reign["until"] or "now"
            print(
                f"version {reign['version']}  {reign['since']} to {until}  {reign['who']}  {' '.join(reign['reasons'])}"
            )
        print(f"aliases: {aliases}")
        print_hold(registered, days=hold_days)
        return
    table = _table(f"{registered.name}: champions", f"aliases: {aliases}")
    table.add_column("version", justify="right")
    table.add_column("since (UTC)")
    table.add_column("until")
    table.add_column("who", overflow="fold")
    table.add_column("why", ratio=1)
    for reign in reigns:
        cells = [reign["version"], _time(reign["since"]), _time(reign["until"]), reign["who"]]
        # Text: rich would read brackets in a reason as markup.
        table.add_row(*map(Text, cells), Text(" ".join(reign["reasons"])), style=None if reign["until"] else "bold")
    console.print(table)
    print_hold(registered, days=hold_days)


def print_hold(registered: Registered, *, days: float | None) -> None:
    """Print whether promotions are on hold and how to end that, or that the hold has ended; nothing without a hold.

    Args:
        days: duration of a hold (promote.hold_days); None: until a person ends it.
    """
    hold = registered.hold
    if hold and hold.is_over(days, datetime.now(UTC)):
        why = f"since {hold.since} ({hold.reason})"
        print(f"{registered.name}: the hold {why} has ended after promote.hold_days ({days:g})")
    elif hold:
        print(
            f"{registered.name}: {hold}: a better model waits for `darkroom approve`, which ends the hold; so do "
            "`darkroom lift-hold` and promote.hold_days"
        )


def print_decisions(test_sets: Sequence[Mapping[str, Any]]) -> None:
    """Print what was decided about the last candidates on each test set.

    Args:
        test_sets: returned by comparisons.decided.
    """
    for test_set in test_sets:
        print(f"{test_set['n_comparisons']} comparisons with the champion on one test set; the last:")
        for decision in test_set["decisions"]:
            word = "passed" if decision["passed"] else "kept the champion"
            print(f"  {_time(decision['at'])}  {word}: {decision['reason']}...")


def print_comparison(found: Mapping[str, Any], *, a: str, b: str) -> None:
    """Print the comparison of two versions.

    Args:
        found: returned by comparison.compare_versions.
        a, b: names of the versions.
    """
    low, high = found["difference_ci95"]
    left_out = found["n_left_out"]
    print(
        f"{found['model']} on {found['n_images']} test images"
        + (f"; {left_out} left out: one of the versions was trained or tuned on them" if left_out else "")
        + "".join(f"; version {one} may have seen some: it does not say what it saw" for one in found["unknown"])
        + "\n"
        f"accuracy: {a} {found['accuracy_a']:.2%}, {b} {found['accuracy_b']:.2%}\n"
        f"difference {100 * found['difference']:+.2f} points, 95 % interval {100 * low:+.2f} to {100 * high:+.2f}\n"
        f"only {a} is correct on {found['n_only_a_correct']}, only {b} on {found['n_only_b_correct']}; "
        f"McNemar's {found['test']} test: p = {found['p_value']:.3g}"
    )
    console = Console(highlight=False)
    rows = _greatest_differences(found["per_class"])
    hidden = len(found["per_class"]) - len(rows)
    caption = f"{hidden} classes with smaller differences not shown" if hidden else None
    table = _table("recall per class; p Holm-corrected over classes", caption)
    table.add_column("class", overflow="fold")
    for name in ("images", a, b, "difference", "p"):
        table.add_column(Text(name), justify="right")
    for name, entry in rows:
        shown = [f"{entry['n_images']}", f"{entry['recall_a']:.2%}", f"{entry['recall_b']:.2%}"]
        shown += [f"{100 * entry['difference']:+.2f}", f"{entry['p_value_holm']:.3g}"]
        table.add_row(Text(name), *shown)
    console.print(table)


def _greatest_differences(per_class: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, Mapping[str, Any]]]:
    """Return the N_CLASSES classes with the largest differences, in their original order."""
    by_size = sorted(per_class.items(), key=lambda item: -abs(item[1]["difference"]))
    kept = {name for name, _ in by_size[:N_CLASSES]}
    return [(name, entry) for name, entry in per_class.items() if name in kept]


def _table(title: str, caption: str | None) -> Table:
    return Table(
        title=Text(title),
        caption=Text(caption) if caption else None,
        title_justify="left",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )


def _time(moment: str | None) -> str:
    """Return a time of the history without seconds."""
    return moment[:16].replace("T", " ") if moment else "now"
