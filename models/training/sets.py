"""Which fields are worth what: sets of features alone, one upon the other and left out, probes that
come rarely, fault families never seen."""

import zlib

import numpy as np

from models.training import bench, evaluate, fit, views

CURVATURES = {
    "consecutive gradients": (
        "secant", "secant_mean", "grad_cosine", "overshoot", "lipschitz_step", "lipschitz_trend",
    ),
    "averaged gradients": (
        "ema_secant", "ema_gradient_share", "ema_gradient_share_trend", "ema_cosine",
    ),
    "full probe": ("probe_sharpness", "probe_gradient_change"),
}  # fmt: skip
"""Kinds of curvature by feature; every other one comes from the forward-only probe."""
FORWARD = "forward probe"
BASIC = ("loss", "gradient", *CURVATURES, FORWARD, "optimizer", "activation")
ORDER = (
    "loss", "gradient", "consecutive gradients", "averaged gradients", FORWARD, "full probe",
    "optimizer", "activation", "learning rate",
)  # fmt: skip
"""The order in which sets are put one upon the other."""
WITHOUT_RATE = ("step_per_gradient",)
"""Features of the shipped model that need the learning rate."""
PROBE = views.GROUPS["probe"] | sum(
    1 << views.FIELDS[n]
    for n in ("probe_grad_dot_update", "probe_grad_norm", "probe_grad_diff_norm")
)
RARE = (10, 20, 50)
"""Steps between probes."""
CALM = 3
"""Where fault families are left out, every so-manieth run that is well is scored."""


def kind_of(name: str, group: str) -> str:
    """The set that a feature belongs to."""
    if group == "curvature":
        return next((kind for kind, names in CURVATURES.items() if name in names), FORWARD)
    return {"lr": "learning rate"}.get(group, group)


def sets(library) -> dict:
    """Set → names of its features in the shipped model; the learning rate's in any case."""
    used = bench.shipped(library)
    found = {}
    for name, group in zip(library.features, library.groups):
        kind = kind_of(name, group.lower())
        if name in used or kind == "learning rate":
            found.setdefault(kind, set()).add(name)
    return {kind: found[kind] for kind in (*ORDER, "validation") if kind in found}


def compared(library) -> dict:
    """Sets by name, alone/…, cumulative/… and without/…, and their features."""
    parts = sets(library)
    basic = [k for k in parts if k in BASIC]
    everything = set().union(*(parts[k] for k in basic))
    curvature = set().union(*(parts[k] for k in basic if k in CURVATURES or k == FORWARD))
    out = {f"alone/{k}": parts[k] for k in basic}
    out["alone/all curvature"] = curvature
    upon = set()
    for k in ORDER:
        if k in parts:
            upon = upon | parts[k]
            out[f"cumulative/{k}"] = upon
    for k in basic:
        out[f"without/{k}"] = everything - parts[k]
    out["without/all curvature"] = everything - curvature
    out["without/the learning rate anywhere"] = everything - set(WITHOUT_RATE)
    out["without/probe and optimizer"] = (
        everything - parts["optimizer"] - parts[FORWARD] - parts.get("full probe", set())
    )
    return {name: names for name, names in out.items() if names}


def compare(b: bench.Bench, names: set) -> dict:
    """One set on programs unseen and seen, and the gap between both."""
    groups = {g for n, g in zip(b.library.features, b.library.groups) if n in names}
    view = "loss" if groups == {"loss"} else "all"
    unseen = b.figures(b.cross(names, b.unseen, view=view), b.unseen)
    seen = b.figures(b.cross(names, b.seen, view=view), b.seen, intervals=False)
    rights = unseen.pop("right"), seen.pop("right")

    def gap(c):
        good, bad = c[b.outcome.positive[c]], c[b.outcome.negative[c]]
        if not len(good) or not len(bad):
            return None
        a, z = ((r[good].mean() + r[bad].mean()) / 2 for r in rights)
        return float(z - a)

    return dict(
        features=len(names), unseen=unseen, seen=seen,
        gap=gap(np.arange(len(b.runs))), gap_interval=bench.interval(b.runs, gap),
    )  # fmt: skip


# -- how often to probe


def thinned_probe(rows: np.ndarray, keep: int) -> np.ndarray:
    """Only every keep-th of the rows that carry a probe keeps it; 0 keeps none."""
    rows = rows.copy()
    probed = np.flatnonzero(rows["present"] & np.uint32(PROBE))
    drop = np.setdiff1d(probed, probed[keep - 1 :: keep]) if keep else probed
    return _without_probe(rows, drop)


def _without_probe(rows: np.ndarray, drop: np.ndarray) -> np.ndarray:
    rows["present"][drop] &= np.uint32(~PROBE & views.ALL)
    for name, i in views.FIELDS.items():
        if PROBE >> i & 1:
            rows["value"][drop, i] = 0
    return rows


def suspicious(b: bench.Bench, loss_margins: list) -> tuple:
    """(rows with probes from the first warning of the loss alone on, share of probes spent).

    The warning level is that of the 5 % budget, from programs of the other folds.
    """
    alarms = bench.alarms_at(b.runs, b.outcome, loss_margins, b.unseen, max(fit.BUDGETS))
    changed, kept, all_of_them = [], 0, 0
    for r, at in zip(b.runs, alarms):
        rows = r.rows.copy()
        probed = rows["present"] & np.uint32(PROBE) != 0
        early = probed & ~(rows["step"] >= at)
        all_of_them += int(probed.sum())
        kept += int((probed & ~early).sum())
        changed.append(_without_probe(rows, np.flatnonzero(early)))
    return changed, kept / max(all_of_them, 1)


def probing(b: bench.Bench, names: set, rows: list) -> dict:
    """Figures on unseen programs with other rows."""
    features = b.varied(lambda i: rows[i])
    found = b.figures(b.cross(names, b.unseen, features), b.unseen)
    found.pop("right")
    return found


def probe_rates(b: bench.Bench, every: int = 10, rates=RARE) -> dict:
    """How often: rows of runs that were probed every so many steps, masked."""
    parts = sets(b.library)
    basic = parts["loss"] | parts["gradient"]
    probe = parts[FORWARD] | parts.get("full probe", set())
    everything = set().union(*(parts[k] for k in parts if k in BASIC))
    bases = {"loss and gradient": basic | probe, "all fields": everything}
    out = {}
    for base, names in bases.items():
        for n in (*rates, 0):
            rows = [thinned_probe(r.rows, n // every) for r in b.runs]
            label = f"every {n} steps" if n else "never"
            out.setdefault(label, {})[base] = probing(b, names, rows)
    return out


def probe_on_suspicion(b: bench.Bench) -> dict:
    """Probes only after the loss alone has warned."""
    parts = sets(b.library)
    loss = b.cross(parts["loss"], b.unseen, view="loss")
    rows, share = suspicious(b, loss)
    probe = parts[FORWARD] | parts.get("full probe", set())
    everything = set().union(*(parts[k] for k in parts if k in BASIC))
    return {
        "probes spent": share,
        "loss and gradient": probing(b, parts["loss"] | parts["gradient"] | probe, rows),
        "all fields": probing(b, everything, rows),
    }


# -- fault families never seen


def unseen_family(b: bench.Bench, names: set) -> dict:
    """Family → AUROC of its unstable runs on unseen programs, its kind taught or not."""
    kind = np.array([r.side["fault"] or "" for r in b.runs])
    tops = {True: {}, False: {}}
    some = np.array([zlib.crc32(("calm:" + r.name).encode()) % CALM == 0 for r in b.runs])
    judged = b.outcome.positive | b.outcome.negative & some
    for k in sorted(set(b.unseen)):
        outside = b.unseen[b.of_run] != k
        here = b.unseen == k
        calm = np.flatnonzero(here & b.outcome.negative & judged)
        known = b.fit(names, np.flatnonzero(outside))
        for i, m in b.margins(known, np.flatnonzero(here & judged)).items():
            tops[True].setdefault(kind[i] if b.outcome.positive[i] else "", {})[i] = m
        for f in fit.CLASSES:
            hit = np.flatnonzero(here & b.outcome.positive & (kind == f))
            fitted = b.fit(names, np.flatnonzero(outside & (kind[b.of_run] != f)))
            for i, m in b.margins(fitted, np.concatenate([hit, calm])).items():
                tops[False].setdefault((f, b.outcome.positive[i]), {})[i] = m
    out = {}
    for f in fit.CLASSES:
        pairs = {
            "taught": (tops[True].get(f, {}), tops[True].get("", {})),
            "not_taught": (tops[False].get((f, True), {}), tops[False].get((f, False), {})),
        }
        out[f] = dict(runs=len(pairs["taught"][0]))
        for name, (bad, good) in pairs.items():
            top = np.full(len(b.runs), np.nan)
            for part in (bad, good):
                for i, m in part.items():
                    top[i] = fit.confirmed(m)
            hit, calm = np.zeros((2, len(b.runs)), bool)
            hit[list(bad)], calm[list(good)] = True, True

            def figure(c, top=top, hit=hit, calm=calm):
                return evaluate.auroc(top[c[hit[c]]], top[c[calm[c]]])

            out[f][name] = figure(np.arange(len(b.runs)))
            out[f][name + "_interval"] = bench.interval(b.runs, figure)
    weight = np.array([out[f]["runs"] for f in out], float)
    mean = {}
    for name in ("taught", "not_taught"):
        value = np.array([out[f][name] for f in fit.CLASSES], float)
        there = np.isfinite(value)
        mean[name] = float((value * weight)[there].sum() / max(weight[there].sum(), 1e-9))
    out["mean by runs"] = dict(runs=int(weight.sum()), **mean)
    return out


def family_sets(library) -> dict:
    """The sets for which fault families are left out."""
    parts, all_sets = sets(library), compared(library)
    return {
        "loss": parts["loss"],
        "loss and gradient": parts["loss"] | parts["gradient"],
        "all without optimizer": all_sets["without/optimizer"],
        "all fields": all_sets["cumulative/activation"],
        "all fields and learning rate": all_sets["cumulative/learning rate"],
    }
