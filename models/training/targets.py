"""What the detector was asked to reach, and whether it does: a table from evaluation.json."""

VIEWS = ("all", "loss_grad_lr")


def rows(r: dict) -> list:
    """(figure, target in words, what was found, whether it is met)."""
    alarms, default = r["alarms"], "0.01"
    full, few = (alarms["views"][view][default] for view in VIEWS)
    manner = {m: alarms["manner"][m]["all"]["delay_median"] for m in ("shock", "gradual")}
    foreseen = alarms["foreseen"]["all"][default]["share"]
    warned = r["precursor"][default]["foreseen"]
    gap = full["balanced_accuracy_seen"] - full["balanced_accuracy"]
    long = alarms["long"][default]["long"]["per_10000"]
    named = r["leak"]["sets"]["all"]["after"]["row"]

    def caught(f: dict) -> str:
        return (
            f"{100 * f['caught']:.1f} % at {100 * f['false_sure']:.2f} % and "
            f"{100 * f['false_all']:.2f} %"
        )

    def within(f: dict) -> bool:
        return f["false_sure"] <= 0.01 and f["false_all"] <= 0.025

    asked = [
        ("AUROC, whole runs, all fields", "≥ .99", f"{alarms['auroc']['all']['auroc']:.3f}",
         alarms["auroc"]["all"]["auroc"] >= 0.99),
        ("balanced accuracy, online, all fields", "≥ .94", f"{full['balanced_accuracy']:.3f}",
         full["balanced_accuracy"] >= 0.94),
        ("caught at ≤ 1 % false on sure and ≤ 2.5 % on all healthy runs, all fields", "≥ 90 %",
         caught(full), full["caught"] >= 0.9 and within(full)),
        ("the same, loss, gradient norm, learning rate", "≥ 80 %", caught(few),
         few["caught"] >= 0.8 and within(few)),
        ("balanced accuracy of that", "≥ .90", f"{few['balanced_accuracy']:.3f}",
         few["balanced_accuracy"] >= 0.9),
        ("median delay of shocks, steps", "≤ 3", f"{manner['shock']:.0f}", manner["shock"] <= 3),
        ("median delay of gradual faults, steps", "≤ 10", f"{manner['gradual']:.0f}",
         manner["gradual"] <= 10),
        ("gradual faults foreseen 5 steps and more: by a warning of the precursor head at its own "
         "budget of 1 % (by an alarm)", "≥ 30 %", f"{100 * warned:.1f} % ({100 * foreseen:.1f} %)",
         warned >= 0.3),
        ("gap seen − unseen, balanced accuracy", "≤ .01", f"{gap:.3f}", gap <= 0.01),
        ("false alarms per 10,000 steps of long healthy runs", "≤ 0.02", f"{long:.3f}",
         long <= 0.02),
        ("program named from a row of the shipped features", "≤ .40", f"{named:.3f}",
         named <= 0.4),
    ]  # fmt: skip
    return [[name, target, found, "yes" if met else "no"] for name, target, found, met in asked]
