"""The tables of EVALUATION.md, each written between its own two marks from evaluation.json, so that
no figure is typed."""

import pathlib
import re

from models.training import targets

VIEWS = {
    "all": "all fields",
    "loss_grad_lr": "loss, gradient norm, learning rate",
    "loss": "loss alone",
}
MARK = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->\n)", re.DOTALL)


def number(x, digits: int = 3) -> str:
    """A figure, or a dash."""
    return "–" if x is None or x != x else f"{x:.{digits}f}"


def span(told: dict, name: str, digits: int = 3) -> str:
    """A figure with its interval."""
    interval = told.get(name + "_interval")
    text = number(told.get(name), digits)
    if not interval:
        return text
    return f"{text} ({number(interval[0], digits)}–{number(interval[1], digits)})"


def share(x) -> str:
    """Per cent."""
    return "–" if x is None or x != x else f"{100 * x:.1f} %"


def shares(told: dict, name: str) -> str:
    """Per cent with its interval."""
    interval = told.get(name + "_interval")
    text = share(told.get(name))
    if not interval:
        return text
    return f"{text} ({100 * interval[0]:.1f}–{100 * interval[1]:.1f})"


def steps(x) -> str:
    """A number of steps."""
    return "–" if x is None or x != x else f"{x:.0f}"


def delay(f: dict) -> str:
    """Median and 90 % of the delay."""
    return f"{steps(f['delay_median'])} / {steps(f['delay_90'])}"


def table(head: list, rows: list) -> str:
    """Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(c) for c in line) + " |" for line in lines) + "\n"


def corpus(r: dict) -> str:
    """Labels."""
    told = r["corpus"]
    rows = [[n, c, told["without_fault"].get(n, 0)] for n, c in told["labels"].items()]
    text = (
        f"{told['programs']} programs, {told['runs']} runs, {told['long']} of them long; "
        f"compared sets learn from {told['rows']} rows.\n\n"
    )
    return text + table(["label", "runs", "of them without a fault"], rows)


def gap(r: dict) -> str:
    """(a)."""
    rows = []
    for features, tasks in r["gap"].items():
        for task, t in tasks.items():
            rows.append([
                features, task, t["runs"], t["rarest_class"], span(t, "seen"), span(t, "unseen"),
                span(t, "gap"),
            ])  # fmt: skip
    head = ["features", "task", "runs", "of the rarest class", "within programs",
            "programs held out", "gap"]  # fmt: skip
    return table(head, rows)


def sets(r: dict) -> str:
    """(b)."""
    rows = []
    for name, t in r["sets"].items():
        u = t["unseen"]
        rows.append([
            name.replace("/", ": "), t["features"], span(u, "auroc"), number(t["seen"]["auroc"]),
            span(u, "balanced_accuracy"), span(t, "gap"), shares(u, "caught"),
            f"{share(u['false_sure'])} / {share(u['false_all'])}",
            share(u["caught_budget_all"]), number(u["precursors"]),
        ])  # fmt: skip
    head = [
        "features", "n", "AUROC unseen", "seen", "balanced accuracy unseen", "gap seen − unseen",
        "caught at 1 % of sure healthy", "false, sure / all healthy",
        "caught at 1 % of all healthy", "gradual precursors",
    ]  # fmt: skip
    return table(head, rows)


def probe(r: dict) -> str:
    """(b), probes."""
    rows = []
    for label, bases in r["probe"].items():
        for base, u in bases.items():
            if isinstance(u, dict):
                rows.append([
                    label, base, span(u, "auroc"), span(u, "balanced_accuracy"),
                    shares(u, "caught"), share(u["false_all"]), number(u["precursors"]),
                ])  # fmt: skip
    spent = r["probe"].get("only after a suspicion", {}).get("probes spent")
    head = ["probe", "features", "AUROC unseen", "balanced accuracy", "caught at 1 %",
            "false, all healthy", "gradual precursors"]  # fmt: skip
    text = table(head, rows)
    if spent is not None:
        text += f"\nProbes only after a suspicion: {share(spent)} of all probes are made.\n"
    return text


def fault_families(r: dict) -> str:
    """(b), fault families unseen."""
    rows = []
    for features, kinds in r["families"].items():
        for kind, t in kinds.items():
            rows.append([features, kind.replace("_", " "), t["runs"], span(t, "taught"),
                         span(t, "not_taught")])  # fmt: skip
    return table(["features", "fault family", "unstable runs", "AUROC, family taught",
                  "AUROC, family not taught"], rows)  # fmt: skip


def leak(r: dict) -> str:
    """(c)."""
    rows = []
    for name, t in r["leak"]["sets"].items():
        for when, label in (("before", "all of the set"), ("after", "shipped of it")):
            rows.append([name, label, t[when]["features"], span(t[when], "row"),
                         span(t[when], "run")])  # fmt: skip
    worst = list(r["leak"]["features"].items())[:8]
    named = ", ".join(f"`{n}` {number(x)}" for n, x in worst)
    return (
        table(["set", "features", "n", "named from a row", "named from a run"], rows)
        + f"\nChance: {number(r['leak']['chance'])}. Single features that name programs best, "
        + f"from one value: {named}.\n"
    )


def alarms(r: dict) -> str:
    """(d)."""
    rows = []
    for view, budgets in r["alarms"]["views"].items():
        for budget, f in budgets.items():
            ahead = r["alarms"]["foreseen"][view][budget]
            ahead = dict(share=ahead["share"], share_interval=ahead["interval"], runs=ahead["runs"])
            rows.append([
                VIEWS[view], f"{100 * float(budget):g} %", shares(f, "caught"),
                shares(f, "false_sure"), shares(f, "false_all"), share(f["false_stalled"]),
                delay(f), shares(ahead, "share"), span(f, "balanced_accuracy"),
                span(dict(gap=f["balanced_accuracy_seen"] - f["balanced_accuracy"],
                          gap_interval=f["gap_interval"]), "gap"),
            ])  # fmt: skip
    head = ["fields", "budget", "caught", "false, sure healthy",
            "false, all healthy", "false, stalled or mismatch", "delay, median / 90 %", "gradual foreseen",
            "balanced accuracy", "gap seen − unseen"]  # fmt: skip
    return table(head, rows)


def precursor(r: dict) -> str:
    """(d), warnings before gradual faults."""
    told = r["precursor"]
    rows = []
    for budget in r["alarms"]["views"]["all"]:
        f = told[budget]
        rows.append([
            f"{100 * float(budget):g} %", shares(f, "foreseen"), share(f["of_the_learning_rate"]),
            share(f["of_others"]), share(f["false_sure"]), share(f["false_all"]),
        ])  # fmt: skip
    head = ["budget of the head", "gradual foreseen", "learning rates that rise", "others",
            "false, sure healthy", "false, all healthy"]  # fmt: skip
    return table(head, rows) + (
        f"\n{told['runs']} gradual faults began five steps or more before the onset; of "
        f"{told['of_the_learning_rate']} of them the learning rate rises.\n"
    )


def _groups(told: dict) -> str:
    rows = []
    for name, by_view in told.items():
        a, g, z = (by_view[v] for v in VIEWS)
        rows.append([
            name.replace("_", " "), a["unstable"], share(a["caught"]), share(g["caught"]),
            share(z["caught"]), delay(a), a["healthy"], share(a["false_sure"]),
            share(g["false_sure"]), share(z["false_sure"]),
        ])  # fmt: skip
    head = ["", "unstable", "caught: all fields", "loss, gradient, lr", "loss",
            "delay, median / 90 %", "sure healthy", "false: all fields", "loss, gradient, lr",
            "loss"]  # fmt: skip
    return table(head, rows)


def long_runs(r: dict) -> str:
    """(d), per 10,000 steps."""
    rows = []
    for budget, kinds in r["alarms"]["long"].items():
        for kind in ("long", "short"):
            t = kinds[kind]
            t = dict(t, rate=t["per_10000"], rate_interval=t["interval"])
            rows.append([f"{100 * float(budget):g} %", kind, t["runs"], f"{t['steps']:.0f}",
                         t["false"], span(t, "rate", 2)])  # fmt: skip
    late = r["alarms"]["long"]["0.01"]["late_faults"]
    text = table(["budget", "runs", "n", "healthy steps", "false alarms", "per 10,000 steps"], rows)
    return text + (
        f"\nOf {late['runs']} late faults in long runs, {share(late['caught'])} are caught at the "
        f"1 % budget, median delay {steps(late['delay_median'])} steps.\n"
    )


def waiting(r: dict) -> str:
    """(d), confirmation."""
    rows = []
    for view, by_rows in r["waiting"].items():
        for n, f in by_rows.items():
            ahead = dict(share=f["foreseen"]["share"], share_interval=f["foreseen"]["interval"])
            rows.append([
                VIEWS[view], n, shares(f, "caught"), share(f["false_sure"]), share(f["false_all"]),
                delay(f), shares(ahead, "share"),
                *(f"{share(f[m]['caught'])}, {steps(f[m]['delay_median'])}"
                  for m in ("shock", "gradual")),
            ])  # fmt: skip
    head = ["fields", "rows in a row", "caught", "false, sure healthy", "false, all healthy",
            "delay, median / 90 %", "gradual foreseen", "shocks: caught, median delay",
            "gradual: caught, median delay"]  # fmt: skip
    return table(head, rows)


def curves(r: dict) -> str:
    """(e)."""
    rows = [[f"{p['programs']} programs", p["draws"], span(p, "auroc"), shares(p, "caught")]
            for p in r["curves"]["programs"]]  # fmt: skip
    rows += [[f"{100 * p['share']:g} % of the runs", p["draws"], span(p, "auroc"),
              shares(p, "caught")] for p in r["curves"]["runs"]]  # fmt: skip
    return table(["learnt from", "draws", "AUROC unseen", "caught at 1 %"], rows)


def rules(r: dict) -> str:
    """(f)."""
    ours = r["alarms"]["views"]
    rows = [("seismo, all fields, 1 %", ours["all"]["0.01"]),
            ("seismo, loss, gradient norm, learning rate, 1 %", ours["loss_grad_lr"]["0.01"]),
            ("seismo, loss alone, 1 %", ours["loss"]["0.01"]), *r["rules"].items()]  # fmt: skip
    return table(
        ["rule", "caught", "too early", "false, sure healthy", "false, all healthy",
         "delay, median / 90 %", "balanced accuracy"],
        [[name, shares(f, "caught"), share(f["too_early"]), shares(f, "false_sure"),
          share(f["false_all"]), delay(f), span(f, "balanced_accuracy")] for name, f in rows],
    )  # fmt: skip


def worst(r: dict) -> str:
    """(g)."""
    w = r["worst"]
    text = f"{w['false_in_all']} false alarms on surely healthy runs in all; the surest:\n\n"
    text += table(["run", "event", "first alarm", "highest at", "score"],
                  [[x["run"], x["event"], x["step"], x["top_step"], number(x["score"])]
                   for x in w["false_alarms"]])  # fmt: skip
    text += f"\n{w['misses_in_all']} misses in all; those that look healthiest:\n\n"
    return text + table(
        ["run", "event", "onset", "highest score after it", "alarm too early"],
        [[x["run"], x["event"], x["step"], number(x["score"]), "yes" if x["too_early"] else "no"]
         for x in w["misses"]],
    )  # fmt: skip


def learners(r: dict) -> str:
    """Other learners on the same rows."""
    rows = []
    for name, told in r["learners"].items():
        for view, title in VIEWS.items():
            f = told[view]
            rows.append([
                name, title, span(f, "auroc"), span(f, "balanced_accuracy"), shares(f, "caught"),
                shares(f, "better"), shares(f, "false_sure"), shares(f, "false_all"),
                f"{share(f['caught_worst'])} / {share(f['caught_tenth'])}",
                f"{number(f['auroc_worst'])} / {number(f['auroc_tenth'])}",
            ])  # fmt: skip
    head = ["learner", "fields", "AUROC", "balanced accuracy", "caught at 1 % of sure healthy",
            "more than the shipped objective", "false, sure healthy", "false, all healthy",
            "caught, worst program / 10th percentile",
            "AUROC, worst program / 10th percentile"]  # fmt: skip
    costs = [[name, t["trees"] or "–", f"{t['macs']:,}" if t["macs"] else "–"]
             for name, t in r["learners"].items()]  # fmt: skip
    n = next(iter(r["learners"].values()))["all"]["programs"]
    text = table(head, rows) + f"\nWorst of the {n} programs with five unstable runs or more.\n\n"
    return text + table(["learner", "trees a step", "multiply-accumulates a step"], costs)


TABLES = {
    "targets": lambda r: table(["figure", "target", "found", "met"], targets.rows(r)),
    "corpus": corpus, "gap": gap, "sets": sets, "probe": probe, "families": fault_families,
    "leak": leak, "alarms": alarms, "long_runs": long_runs, "waiting": waiting, "curves": curves,
    "rules": rules, "precursor": precursor, "worst": worst, "learners": learners,
    "manner": lambda r: _groups(r["alarms"]["manner"]),
    "by_fault": lambda r: _groups(r["alarms"]["by_fault"]),
    "by_event": lambda r: _groups(r["alarms"]["by_event"]),
    "by_kind": lambda r: _groups(r["alarms"]["by_kind"]),
    "by_family": lambda r: _groups(r["alarms"]["by_family"]),
}  # fmt: skip


def filled(text: str, results: dict) -> str:
    """The text with every table written anew."""
    wanted = [m.group(2) for m in MARK.finditer(text)]
    unknown = set(wanted) ^ set(TABLES)
    if unknown:
        raise ValueError(f"EVALUATION.md and report.py differ in the tables {sorted(unknown)}")
    return MARK.sub(lambda m: m.group(1) + TABLES[m.group(2)](results) + m.group(3), text)


def write(path: pathlib.Path, results: dict) -> None:
    """Fill the file's tables."""
    path.write_text(filled(path.read_text(), results))
