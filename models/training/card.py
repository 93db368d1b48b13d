"""The tables of MODEL_CARD.md, written from results.json between two marks, so that no figure is
typed."""

import pathlib

BEGIN, END = "<!-- figures: written by models/training/train -->\n", "<!-- end of figures -->\n"
NAMES = {
    "all": "all fields",
    "loss_grad_lr": "loss, gradient norm, learning rate",
    "loss": "loss alone",
}


def _share(x, interval=None) -> str:
    if x is None:
        return "–"
    text = f"{100 * x:.1f} %"
    return text + (f" ({100 * interval[0]:.1f}–{100 * interval[1]:.1f})" if interval else "")


def _steps(x) -> str:
    return "–" if x is None else f"{x:.0f}"


def tables(results: dict) -> str:
    """The figures as Markdown."""
    out = []
    labels = results["corpus"]["labels"]
    out += ["| label | runs | of them without a fault |", "|---|---|---|"]
    for name, n in labels["all"].items():
        out.append(f"| {name} | {n} | {labels['without_fault'].get(name, 0)} |")
    out += [
        "",
        "AUROC of whole runs (unstable against surely not unstable), 95 % interval over programs:",
        "",
    ]
    out += ["| fields | programs unseen | programs seen, runs unseen |", "|---|---|---|"]
    for view, v in results["views"].items():
        low, high = v["auroc_interval"]
        out.append(
            f"| {NAMES[view]} | {v['auroc']:.3f} ({low:.3f}–{high:.3f}) | {v['auroc_seen']:.3f} |"
        )
    out += [
        "",
        "Alarms (first critical verdict) on unseen programs, thresholds from other programs only:",
        "",
    ]
    out += [
        "| fields | budget | caught | false, sure healthy | false, all healthy | false, stalled | "
        "delay, median / 90 % | balanced accuracy | … programs seen |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for view, v in results["views"].items():
        for budget, f in v["budgets"].items():
            cells = [
                NAMES[view],
                f"{100 * float(budget):g} %",
                _share(f["caught"], f["caught_interval"]),
                _share(f["false_healthy"], f["false_healthy_interval"]),
                _share(f["false_all_healthy"]),
                _share(f["false_stalled"]),
                f"{_steps(f['delay_median'])} / {_steps(f['delay_90'])}",
                "{:.3f} ({:.3f}–{:.3f})".format(
                    f["balanced_accuracy"], *f["balanced_accuracy_interval"]
                ),
                f"{f['balanced_accuracy_seen']:.3f}",
            ]
            out.append("| " + " | ".join(cells) + " |")
    long = results["long"]
    out += ["", f"Long healthy runs ({long['runs']} of together {long['steps']:,} steps), budget 1 %:", ""]
    out += ["| fields | false alarms | per 10,000 steps |", "|---|---|---|"]
    for view, n in long["alarms"].items():
        out.append(f"| {NAMES[view]} | {n} | {long['per_10000'][view]:.3f} |")
    out += ["", "The heads beside instability, whole runs, budget 1 %, against surely healthy runs:", ""]
    out += ["| state | such runs | AUROC | found | false, sure healthy |", "|---|---|---|---|---|"]
    for name, f in results["sides"].items():
        low, high = f["auroc_interval"]
        out.append(
            f"| {name} | {f['runs']} | {f['auroc']:.3f} ({low:.3f}–{high:.3f}) "
            f"| {_share(f['found'])} | {_share(f['false_healthy'])} |"
        )
    early = results.get("precursor")
    if early:
        out += ["", f"Warnings by the precursor head, all fields, against {early['runs']} gradual "
                "faults that began five steps or more before the onset:", ""]  # fmt: skip
        out += ["| budget | foreseen | learning rates that rise | others | false, sure healthy "
                "| false, all healthy |", "|---|---|---|---|---|---|"]  # fmt: skip
        for budget in ("0.001", "0.01", "0.05"):
            f = early[budget]
            low, high = f["foreseen_interval"]
            cells = [f"{100 * float(budget):g} %",
                     f"{_share(f['foreseen'])} ({_share(low)}–{_share(high)})"]  # fmt: skip
            cells += [_share(f[k]) for k in ("of_the_learning_rate", "of_others", "false_sure", "false_all")]
            out.append("| " + " | ".join(cells) + " |")
    out += [
        "",
        "Simple rules on the same runs, all fields given:",
        "",
    ]
    out += [
        "| rule | caught | too early | false, sure healthy | false, stalled "
        "| delay, median / 90 % | balanced accuracy |",
        "|---|---|---|---|---|---|---|",
    ]
    ours = results["views"]["all"]["budgets"]["0.01"]
    for name, f in [("seismo, budget 1 %", ours), *results["baselines"].items()]:
        cells = [name, *(_share(f[k]) for k in ("caught", "too_early"))]
        cells += [_share(f["false_healthy"]), _share(f["false_stalled"])]
        cells += [f"{_steps(f['delay_median'])} / {_steps(f['delay_90'])}"]
        out.append("| " + " | ".join(cells) + f" | {f['balanced_accuracy']:.3f} |")
    out += ["", "By what happened in the run, budget 1 %, all fields:", ""]
    out += [
        "| event | unstable | caught | surely not unstable | false alarms |",
        "|---|---|---|---|---|",
    ]
    for name, f in results["by_event"].items():
        out.append(
            f"| {name} | {f['unstable']} | {f['caught']} | {f['not_unstable']} | {f['false']} |"
        )
    fault = results["fault"]
    out += [
        "",
        f"Fault typing at the first critical verdict: {fault['alarms']} alarms, "
        f"{_share(fault['named'])} named, {_share(fault['right_of_named'])} of those rightly; "
        f"mean recall of the classes that occurred {_share(fault['mean_recall'])} "
        f"(chance {_share(fault['chance'])}).",
    ]
    return "\n".join(out) + "\n"


def write(path: pathlib.Path, results: dict) -> None:
    """Replace the figures of the card."""
    text = path.read_text()
    before, rest = text.split(BEGIN, 1)
    path.write_text(before + BEGIN + tables(results) + END + rest.split(END, 1)[1])
