"""The figures of EVALUATION.md, drawn from evaluation.json and the curves of the worst runs."""

import pathlib

import matplotlib

matplotlib.use("Agg")

import numpy as np  # noqa: E402
from matplotlib import pyplot  # noqa: E402

BLUE, ORANGE, GREY, RED = "#2b6ca3", "#e07b1a", "#9a9a9a", "#b5292f"
VIEWS = {
    "all": ("all fields", BLUE),
    "loss_grad_lr": ("loss, gradient norm, learning rate", ORANGE),
    "loss": ("loss alone", RED),
}


def _save(figure, path: pathlib.Path, dpi: int = 90) -> None:
    figure.savefig(path, dpi=dpi, metadata={"Software": None})
    pyplot.close(figure)


def _axes(rows: int, columns: int, width: float, height: float, **options):
    figure, axes = pyplot.subplots(
        rows, columns, figsize=(width, height), squeeze=False, constrained_layout=True, **options
    )
    for ax in axes.flat:
        ax.spines[["top", "right"]].set_visible(False)
        ax.tick_params(labelsize=8)
    return figure, axes


def _bars(value, span) -> list:
    """Lengths of an error bar below and above."""
    if value is None or span is None:
        return [[0], [0]]
    return [[max(value - span[0], 0)], [max(span[1] - value, 0)]]


def feature_sets(sets: dict, path: pathlib.Path) -> None:
    """Every set's AUROC and share caught, on programs unseen (with intervals) and seen."""
    names = list(sets)
    figure, axes = _axes(1, 2, 9, 0.23 * len(sets) + 1, sharey=True)
    for ax, name, label in (
        (axes[0, 0], "auroc", "AUROC of whole runs"),
        (axes[0, 1], "caught", "caught at 1 % false alarms"),
    ):
        for y, told in enumerate(sets.values()):
            if y and names[y].split("/")[0] != names[y - 1].split("/")[0]:
                ax.axhline(y - 0.5, color="black", lw=0.4)
            x = told["unseen"][name]
            span = told["unseen"][name + "_interval"]
            ax.errorbar(x, y, xerr=_bars(x, span), fmt="o", color=BLUE, ms=4, lw=1)
            ax.plot(told["seen"][name], y, "x", color=ORANGE, ms=4)
        ax.set_xlabel(label, fontsize=8)
        ax.grid(axis="x", lw=0.3)
    axes[0, 0].set_yticks(range(len(sets)), [n.replace("/", ": ") for n in names])
    axes[0, 0].invert_yaxis()
    axes[0, 1].plot([], [], "o", color=BLUE, label="programs unseen, 95 % interval")
    axes[0, 1].plot([], [], "x", color=ORANGE, label="programs seen, runs unseen")
    axes[0, 1].legend(fontsize=7, loc="lower left")
    _save(figure, path)


def learning_curves(curves: dict, path: pathlib.Path) -> None:
    """AUROC and share caught over programs and over runs."""
    figure, axes = _axes(1, 2, 8, 3, sharey=True)
    for ax, points, key, label in (
        (axes[0, 0], curves["programs"], "programs", "programs learnt from"),
        (axes[0, 1], curves["runs"], "share", "share of the runs learnt from"),
    ):
        x = [p[key] for p in points]
        for name, color, text in (("auroc", BLUE, "AUROC"), ("caught", ORANGE, "caught at 1 %")):
            y = [p[name] for p in points]
            ax.plot(x, y, "o-", color=color, ms=4, lw=1, label=text)
            low, high = zip(*(p[name + "_interval"] or (v, v) for p, v in zip(points, y)))
            ax.fill_between(x, low, high, color=color, alpha=0.15, lw=0)
        ax.set_xscale("log")
        ax.set_xticks(x, [f"{v:g}" for v in x])
        ax.minorticks_off()
        ax.set_xlabel(label, fontsize=8)
        ax.grid(lw=0.3)
    axes[0, 0].legend(fontsize=8)
    _save(figure, path)


def leak(told: dict, path: pathlib.Path) -> None:
    """How well programs are named, before and after the choice of features."""
    figure, axes = _axes(1, 2, 8, 2.8, sharey=True)
    names = list(told["sets"])
    for ax, kind, label in ((axes[0, 0], "row", "a single row"), (axes[0, 1], "run", "whole run")):
        for shift, when, color in ((-0.2, "before", GREY), (0.2, "after", BLUE)):
            part = [told["sets"][n][when] for n in names]
            value = [p[kind] for p in part]
            bars = np.hstack([_bars(p[kind], p[kind + "_interval"]) for p in part])
            at = np.arange(len(names)) + shift
            ax.barh(at, value, 0.38, xerr=bars, color=color, error_kw=dict(lw=0.8),
                    label="all of the set" if when == "before" else "shipped of it")  # fmt: skip
        ax.axvline(told["chance"], color="black", lw=0.6, ls=":")
        ax.set_xlim(0, 1)
        ax.set_xlabel(f"programs named rightly from {label}", fontsize=8)
    axes[0, 0].set_yticks(range(len(names)), names)
    axes[0, 0].invert_yaxis()
    axes[0, 0].legend(fontsize=7, loc="lower left", bbox_to_anchor=(0, 1), ncol=2, frameon=False)
    _save(figure, path)


def operating(views: dict, rules: dict, path: pathlib.Path) -> None:
    """Caught against false alarms: the budgets of each view, and the rules people use."""
    figure, axes = _axes(1, 1, 8.5, 4.2)
    ax = axes[0, 0]
    for n, f in enumerate(rules.values(), 1):
        x = max(f["false_sure"] or 0, 5e-4)
        ax.plot(x, f["caught"], "s", color=GREY, ms=4)
        ax.annotate(str(n), (x, f["caught"]), fontsize=7, color="#444444",
                    xytext=(3, 2), textcoords="offset points")  # fmt: skip
    key = "\n".join(f"{n}  {name}" for n, name in enumerate(rules, 1))
    ax.text(1.02, 0.98, key, transform=ax.transAxes, fontsize=7, va="top", color="#444444")
    for view, (label, color) in VIEWS.items():
        budgets = list(views[view].values())
        x = [max(f["false_sure"], 5e-4) for f in budgets]
        ax.plot(x, [f["caught"] for f in budgets], "-", color=color, lw=1, label=label)
        for at, f in zip(x, budgets):
            ax.errorbar(at, f["caught"], yerr=_bars(f["caught"], f["caught_interval"]),
                        fmt="o", color=color, ms=4, lw=1)  # fmt: skip
    ax.set_xscale("log")
    ax.set_xlim(4e-4, 1.5)
    ax.set_ylim(0, 1)
    ax.set_xlabel("false alarms among surely healthy runs", fontsize=8)
    ax.set_ylabel("unstable runs caught", fontsize=8)
    ax.legend(fontsize=7, loc="upper left")
    ax.grid(lw=0.3)
    _save(figure, path)


def waiting(told: dict, path: pathlib.Path) -> None:
    """What it buys to wait for more rows in a row."""
    figure, axes = _axes(1, 3, 9, 2.7)
    for ax, name, label in (
        (axes[0, 0], "caught", "caught at 1 %"),
        (axes[0, 1], "false_all", "false alarms, all healthy runs"),
        (axes[0, 2], "delay_median", "median delay in steps"),
    ):
        for view, (text, color) in VIEWS.items():
            x = [int(k) for k in told[view]]
            y = [np.nan if f[name] is None else f[name] for f in told[view].values()]
            ax.plot(x, y, "o-", color=color, ms=4, lw=1, label=text)
            spans = [f[name + "_interval"] or (v, v) for f, v in zip(told[view].values(), y)]
            ax.fill_between(x, *zip(*spans), color=color, alpha=0.12, lw=0)
        ax.set_xscale("log")
        ax.set_xticks(x, [str(v) for v in x])
        ax.minorticks_off()
        ax.set_title(label, fontsize=8)
        ax.set_xlabel("rows in a row above the threshold", fontsize=8)
        ax.grid(lw=0.3)
    axes[0, 0].legend(fontsize=6)
    _save(figure, path)


def _loss(ax, steps: np.ndarray, loss: np.ndarray) -> None:
    """A loss, cut at what is off the scale; where it is not finite, marks at the top."""
    finite = np.isfinite(loss)
    if finite.any():
        low, high = np.quantile(loss[finite], [0, 0.98])
        top = high + 0.6 * (high - low) + 1e-12
        ax.plot(steps, np.where(finite, np.minimum(loss, top), np.nan), color=BLUE, lw=0.7)
        ax.set_ylim(low - 0.05 * (top - low), top * 1.0 + 0.05 * (top - low))
        ax.plot(steps[~finite], np.full((~finite).sum(), top), "v", color=RED, ms=2)


def worst(listed: dict, series: dict, kind: str, path: pathlib.Path) -> None:
    """The loss and the score of the worst runs, small."""
    runs = listed[kind]
    columns = 5
    rows = max(1, -(-len(runs) // columns))
    figure, axes = _axes(rows, columns, 11, 1.55 * rows)
    for ax in axes.flat[len(runs) :]:
        ax.set_visible(False)
    for ax, w in zip(axes.flat, runs):
        steps, loss, score, _ = series[w["run"]]
        _loss(ax, steps, loss)
        ax.axvline(w["step"], color="black", lw=0.6, ls=":")
        ax.tick_params(labelsize=5)
        ax.yaxis.get_offset_text().set_fontsize(5)
        other = ax.twinx()
        other.spines[["top", "right"]].set_visible(False)
        other.plot(steps, score, color=ORANGE, lw=0.6, alpha=0.8)
        other.set_ylim(0, 1)
        other.set_yticks([])
        ax.set_title(f"{w['run']} {w['event']}", fontsize=6)
    _save(figure, path, 80)


def sheet(path: pathlib.Path, w: dict, steps, loss, score, side: dict) -> None:
    """One run, large: loss, clean probe, score."""
    figure, axes = _axes(3, 1, 8, 6, sharex=True)
    _loss(axes[0, 0], steps, loss)
    clean = np.array([[s, float(x)] for s, x in side["clean"]])
    finite = np.where(np.isfinite(clean[:, 1]), clean[:, 1], np.nan)
    axes[1, 0].plot(clean[:, 0], finite, "o-", ms=3)
    axes[2, 0].plot(steps, score, color=ORANGE, lw=0.8)
    axes[2, 0].set_ylim(0, 1)
    for ax, name in zip(axes[:, 0], ("loss", "clean probe", "score")):
        ax.set_ylabel(name, fontsize=8)
        ax.axvline(w["step"], color="black", lw=0.7, ls=":")
        if side["fault"]:
            ax.axvline(side["onset"], color=RED, lw=0.7, ls="--")
    told = ", ".join(f"{k} {v}" for k, v in side["drawn"].items())
    axes[0, 0].set_title(
        f"{w['run']}: {w['event']} ({side['fault'] or 'no fault'}), labelled {w['label']}, "
        f"score {w['score']:.3f}\n{told}", fontsize=8,
    )  # fmt: skip
    _save(figure, path)


def draw(folder: pathlib.Path, results: dict, series: dict) -> None:
    """All figures."""
    folder.mkdir(parents=True, exist_ok=True)
    feature_sets(results["sets"], folder / "sets.png")
    learning_curves(results["curves"], folder / "curves.png")
    leak(results["leak"], folder / "leak.png")
    operating(results["alarms"]["views"], results["rules"], folder / "alarms.png")
    waiting(results["waiting"], folder / "waiting.png")
    for kind in ("false_alarms", "misses"):
        worst(results["worst"], series, kind, folder / f"worst_{kind}.png")
