"""The model card of a shipped scheme, from its file and the records under results/; `docs/tables.py` writes it.

Every measured figure in the card comes from a record or from the scheme's file; a row without a record is left out.
What the sentences say of them is written by hand: read them again after new records.
"""

import math
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import ablation

from imageveil.audit.breaks import STOLEN
from imageveil.audit.conclusion import WORDS
from imageveil.audit.similarity import mean_removed
from imageveil.audit.verdict import finding, guess, stolen, strength
from imageveil.records import made_on, read_records
from imageveil.schemes import load_scheme
from imageveil.schemes.learned import LearnedScheme

RESULTS = Path(__file__).parents[1] / "results"
BESIDE = RESULTS / "schemes"
"""Learned schemes that are recorded for comparison and not shipped."""

CONTINUED = BESIDE / "private.safetensors"
"""A scheme that was continued from the shipped one, as an owner would."""

EARLIER = RESULTS / "earlier"
"""Classifiers by the recipe `quick` as it was before it became what it is; they stand in until they are remade."""


def table_records() -> list[dict[str, Any]]:
    """The records that tables are made of; `earlier` is true of classifiers by the recipe before.

    Plain and protected images of one set are always by one recipe: the present one where both are there.
    """
    folders = sorted(path for path in RESULTS.iterdir() if path.is_dir() and path != EARLIER)
    # Beside the records of an audit lie the settings of its runs, on the machine where it was made.
    rows = [row | {"earlier": False} for folder in folders for row in read_records(folder) if "task" in row]
    present = [row for row in rows if row["task"] == "classify" and row["preset"] == "quick"]
    pairs = {row["data"] for row in present if row["scheme"] != "none"} & {
        row["data"] for row in present if row["scheme"] == "none"
    }
    made = {(row["data"], row["scheme"]) for row in present if row["data"] in pairs}
    kept = [row for row in rows if row not in present or row["data"] in pairs]
    before = read_records(EARLIER) if EARLIER.is_dir() else []
    return kept + [row | {"earlier": True} for row in before if (row["data"], row["scheme"]) not in made]


def telling(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of records of one scheme each attack's strongest variant, and what a viewer sees on the most images."""
    kept: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in rows:
        key = (row["task"], row["attack"], row["threat"], row["data"], row["metrics"].get("attacker_pairs"))
        kept[key] = max(kept.get(key, row), row, key=strength if row["task"] == "attack" else lambda one: one["n"])
    return [*kept.values()]


def silent(row: dict[str, Any]) -> bool:
    """Whether a record says nothing: its attack failed, and its controls are open. A success proves itself."""
    return bool(row["void"]) and finding(row) == "nothing"


def earlier_note(rows: Iterable[dict[str, Any]]) -> list[str]:
    """What the mark on accuracies by the recipe before means, where a table has one."""
    data = sorted({row["data"] for row in rows if row["earlier"]})
    if not data:
        return []
    plain = [row for row in read_records(EARLIER) if row["scheme"] == "none" and row["data"] in data]
    reached = ", ".join(f"{percent(row['metrics']['accuracy'])} on plain images of {row['data']}" for row in plain)
    return [f"\\* By the recipe before the present one, which reached {reached}.", ""]


def percent(value: float) -> str:
    return f"{100 * value:.2f} %"


def accuracy(row: dict[str, Any]) -> str:
    """The accuracy of a classifier, marked where its recipe is the one before."""
    return percent(row["metrics"]["accuracy"]) + (" \\*" if row["earlier"] else "")


def shown(metrics: dict[str, float], name: str) -> str:
    return percent(metrics[name]) if name in metrics else "-"


def source(row: dict[str, Any]) -> str:
    return f"`{row['command']}`, commit {row['commit']}, {row['device']}"


def accuracy_rows(records: list[dict[str, Any]], name: str) -> list[str]:
    lines = ["| data | images | accuracy | 95 % interval | n | of the time protecting |", "|---|---|---|---|---|---|"]
    wanted = ("classify", "quick", "live")
    rows = [r for r in records if (r["task"], r["preset"], r["augment"]) == wanted and r["scheme"] in ("none", name)]
    for row in sorted(rows, key=lambda r: (r["data"], r["scheme"] != "none")):
        low, high = row["intervals"]["accuracy"]
        kind = "plain" if row["scheme"] == "none" else "protected"
        share = row["metrics"]["share_of_time_protecting"]
        lines.append(
            f"| {row['data']} | {kind} | {accuracy(row)} | {percent(low)} to {percent(high)} "
            f"| {row['n']} | {percent(share)} |"
        )
    sources = (f"- {row['data']}, {row['scheme']}: {source(row)}, {row['seconds']:.0f} s" for row in rows)
    return [*lines, "", *earlier_note(rows), *sources]


def similarity_rows(records: list[dict[str, Any]], name: str) -> list[str]:
    lines = [
        "| data | n | SSIM | its blind floor | re-identified within the class | chance | the same, mean subtracted |",
        "|---|---|---|---|---|---|---|",
    ]
    rows = telling(r for r in records if r["task"] == "similarity" and r["scheme"] == name)
    for row in rows:
        metrics = row["metrics"]
        lines.append(
            f"| {row['data']} | {row['n']} | {metrics['ssim']:.3f} | {row['floors']['blind']['ssim']:.3f} "
            f"| {shown(metrics, 'reid_within')} | {shown(row['floors'].get('chance', {}), 'reid_within')} "
            f"| {shown(metrics, 'reid_within_mean_removed')} |"
        )
    return [*lines, "", *(f"- {row['data']}: {source(row)}" for row in rows)]


def summary(records: list[dict[str, Any]], name: str) -> str:
    """What it costs and what it hides, one line a data set; records made by the recipe `quick`."""
    lines = [
        "| data | accuracy on plain images | on protected ones | SSIM to the plain image "
        "| named within its class | the same, mean subtracted | chance | by the audit's rule |",
        "|---|---|---|---|---|---|---|---|",
    ]
    found: dict[tuple[str, str, str], dict[str, Any]] = {
        (r["task"], r["data"], r["scheme"]): r
        for r in records
        if r["preset"] in (None, "quick") and r["augment"] in (None, "live")
    }
    used = []
    for data in ("cifar10", "cifar100", "photos96"):
        plain, hidden = (found.get(("classify", data, scheme)) for scheme in ("none", name))
        seen = found.get(("similarity", data, name))
        cells = [accuracy(row) if row else "" for row in (plain, hidden)]
        if seen is not None:
            metrics = seen["metrics"]
            cells += [f"{metrics['ssim']:.3f}", percent(metrics["reid_within"])]
            cells += [percent(metrics["reid_within_mean_removed"]), percent(seen["floors"]["chance"]["reid_within"])]
            cells += [WORDS[finding(mean_removed(seen))]]
        else:
            cells += [""] * 5
        used += [row for row in (plain, hidden, seen) if row is not None]
        lines.append(f"| {data} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", *earlier_note(used), made_on(used)])


def open_learned(name: str) -> LearnedScheme:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scheme = load_scheme(name)
    assert isinstance(scheme, LearnedScheme)
    return scheme


def beside_rows(records: list[dict[str, Any]], schemes: list[LearnedScheme]) -> list[str]:
    """How the schemes were learned, and what of them was measured on CIFAR-10, one line each."""
    lines = [
        "| scheme | preset | steps | minutes | SSIM | named within the class | the same, mean subtracted "
        "| accuracy of a classifier | variance that G_BA leaves |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    used: list[dict[str, Any]] = []
    for scheme in schemes:
        found = {
            r["task"]: r
            for r in records
            if r["scheme"] == scheme.label
            and r["data"] == "cifar10"
            and r["preset"] in (None, "quick")
            and not r["attack"]
            and r["augment"] in (None, "live")
        }
        if "similarity" not in found:
            continue
        training = scheme.training["transformation"]
        similarity = found["similarity"]["metrics"]
        reached = accuracy(found["classify"]) if "classify" in found else "-"
        lines.append(
            f"| {scheme.label} | `{scheme.training['preset']}` | {training['steps']:,} "
            f"| {training['seconds'] / 60:.0f} | {similarity['ssim']:.3f} | {shown(similarity, 'reid_within')} "
            f"| {shown(similarity, 'reid_within_mean_removed')} | {reached} | {shown(training, 'inverse')} |"
        )
        used += [found[task] for task in ("similarity", "classify") if task in found]
    chance = percent(used[0]["floors"]["chance"]["reid_within"])
    how = (
        f"{used[0]['n']:,} test images; guessing names {chance}. Minutes are those of the transformation alone, "
        "without the classifiers before it, and not of one processor."
    )
    sources = (f"- {source(row)}" for row in used if row["scheme"] != schemes[0].label)
    return [*lines, "", how, "", *earlier_note(used), *sources]


def literal_section(records: list[dict[str, Any]], scheme: LearnedScheme) -> list[str]:
    """The scheme beside the paper's objective to the letter."""
    literal = open_learned(str(BESIDE / "gan-literal.safetensors"))
    last = literal.training["transformation"]
    return [
        "## Beside the paper's objective to the letter",
        "",
        "`gan-literal` is learned by Eq. 1 to 9 as they stand: towards preliminary protected images (of which its "
        f"frozen VGG13, of {percent(literal.training['classifier']['accuracy'])} on plain test images, classifies "
        f"{percent(literal.training['preliminary']['classified_right'])} right), gamma1 = -1, "
        "without a viewer and without a warm start (preset `literal`). It does not ship. The perceptual distance (6) "
        "has no bound, and at the scale at which features have mean 1 it drowns everything else: at the last step it "
        f"is {last['L_p']:.0f}, the loss (8) of the VGG13 {last['L_c']:.1f} (guessing among ten classes has "
        f"{math.log(10):.1f}). "
        "Protected images are made of areas of three kinds, magenta, cyan and stripes, some of the coarse shape of "
        "what was there: below a patch stands for the watch, the starfish and the chandelier, and nothing for the "
        "turtle. Photographs of 96 pixels, plain on the left:",
        "",
        "![gan-literal](gan-literal.png)",
        "",
        *beside_rows(
            records,
            [scheme, literal, open_learned(str(BESIDE / "transform.safetensors"))],
        ),
        "",
        *narrow_paragraph(records, (scheme.label, literal.label)),
    ]


def narrow_paragraph(records: list[dict[str, Any]], names: Sequence[str]) -> list[str]:
    """What a narrow classifier reads off images that were protected once, where that is recorded of all schemes."""
    found = {
        row["scheme"]: row
        for row in records
        if (row["task"], row["data"], row["preset"], row["augment"]) == ("classify", "cifar10", "narrow", "once")
    }
    if not set(names) <= set(found):
        return []
    each = " and ".join(f"{percent(found[name]['metrics']['accuracy'])} of the images of `{name}`" for name in names)
    return [f"A classifier by the recipe `narrow` (docs/schemes.md) reads the class off {each}, protected once.", ""]


def undo_section(records: list[dict[str, Any]], name: str) -> list[str]:
    """What attacks on the scheme got, where that is recorded."""
    all_rows = telling(r for r in records if r["task"] == "attack" and r["scheme"] == name and not silent(r))
    rows = [row for row in all_rows if "ssim" in row["metrics"]]
    confirming = [row for row in all_rows if row not in rows]
    if not rows:
        return []
    return [
        "## Who can undo it",
        "",
        "What recorded attacks reconstruct from protected images they have not seen, each in its strongest variant;",
        "docs/attacks.md describes them:",
        "",
        *attack_rows(rows),
        "",
        *(confirmed(row) for row in confirming),
        *(f"- {row['attack']}, {row['threat']}: {source(row)}, {row['seconds']:.0f} s" for row in (*rows, *confirming)),
        "",
    ]


def continued_section(records: list[dict[str, Any]], scheme: LearnedScheme) -> list[str]:
    """What an owner gets who continues from the scheme, and what attacks on that got, where both are recorded."""
    if not CONTINUED.is_file():
        return []
    own = open_learned(str(CONTINUED))
    training = own.training
    rows = telling(r for r in records if r["task"] == "attack" and r["scheme"] == own.label and not silent(r))
    return [
        "## A scheme continued from it",
        "",
        f"`{own.label}` is what an owner gets who saves the time: `imageveil train --init {scheme.label}` on "
        f"{training['images']:,} images of {training['data']}, seed {training['seed']}, which draws a pattern of its "
        "own and continues from the public weights.",
        "",
        *beside_rows(records, [scheme, own]),
        "",
        "Whoever attacks it has the public weights, too, and may continue from them as often as they like. Such an "
        "attacker was given three schemes, continued with the seeds 2, 3 and 4 on the same training images (more than "
        "a stranger would have: half of them are those that the cloud holds protected), and an inverse network that "
        "learned from all three. Where it was stolen, `leaked-inverse` is the thief of the run directory, in which "
        "training leaves its own inverse:",
        "",
        *attack_rows(rows),
        "",
        "**So it is not private from the cloud.** `sdar` has the classifier that the cloud trained, plain images of "
        "the kind with their classes, and no pair; its simulator starts from the public weights, as the owner did. "
        "What it makes of protected images has their colours and rough shapes (plain, protected, rebuilt), and names "
        "nearly every one:",
        "",
        f"![What sdar rebuilds](../results/attacks/cifar10-sdar-{own.label}-recipe.png)",
        "",
        f"The same attack on `{scheme.label}` (above), whose weights it was not told, names fewer images than they do "
        "by themselves once their mean is subtracted. Learn a scheme from nothing, with a seed of its own, rather than "
        "from these weights. Without the classifier neither three schemes like it nor the inverse of the public one "
        "(`leaked-inverse` under `recipe`) shows what was on a photograph, but the matchers name the image in about "
        "half of the cases by either; an attacker with a hundred such schemes has not been tried. Keep the run "
        "directory to yourself.",
        "",
        *(f"- {row['attack']}, {row['threat']}: {source(row)}, {row['seconds']:.0f} s" for row in rows),
        "",
    ]


def attack_rows(rows: Iterable[dict[str, Any]]) -> list[str]:
    """What attacks that reconstruct got, one line each."""
    lines = [
        "| attack | what the attacker has | data | n | SSIM | variance left | named within the class | guessing |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        metrics, had = row["metrics"], STOLEN if stolen(row) else row["threat"]
        lines.append(
            f"| {row['attack']} | {had} | {row['data']} | {row['n']} | {metrics['ssim']:.3f} "
            f"| {percent(metrics['mse_var'])} | {shown(metrics, 'reid_within')} "
            f"| {percent(guess(row, 'reid_within') or 0)} |"
        )
    return lines


def confirmed(row: dict[str, Any]) -> str:
    """How often an attack tells which of some candidates an image is, as a paragraph."""
    metrics = row["metrics"]
    return (
        f"Without reconstructing anything, `{row['attack']}` ({row['threat']}) tells which of "
        f"{metrics['confirm_candidates']:,.0f} candidates was protected in {percent(metrics['confirm_top1'])} of the "
        f"cases on {row['data']}; guessing does in {percent(guess(row, 'confirm_top1') or 0)}.\n"
    )


def ablation_section() -> list[str]:
    """What each term of the objective does, where that is recorded."""
    folder = RESULTS / "ablation"
    records = read_records(folder) if folder.is_dir() else []
    if not records:
        return []
    return [
        "## What each term does",
        "",
        f"Short runs that differ in one term each ({records[0]['preset']}; what a viewer sees on {records[0]['n']:,} "
        "test images; one seed), all from one encoder. So little training hides and keeps less than the shipped "
        "scheme does: compare each row with the first alone. Numbers are those of the paper's equations "
        "(docs/architecture.md). Accuracies are by the recipe of the commit, before the present "
        "one. `benchmarks/ablation.py` makes them.",
        "",
        ablation.table(folder),
        "",
        "The viewer and the contrast-normalised output do the hiding. The features of a plain classifier, which are "
        "there for labels that the scheme was not taught, are what names images once the mean is subtracted; what "
        "they bring to such labels is not in this table. (9) makes hiding harder and hardly changes the accuracy. In "
        "this budget (4) towards P and (8) through h_theta each leave more to see, and (8) gains some accuracy. (6), "
        "bounded, hides from the matchers as the viewer does, but lets G_BA restore more of the image.",
        "",
    ]


MEASURED = {
    "classify": ("accuracy",),
    "similarity": ("ssim", "reid_within", "reid_within_mean_removed"),
    "attack": ("ssim", "mse_var", "reid_within"),
}
"""What `imageveil info` shows of a scheme's records, by their task."""


def theta_line(records: list[dict[str, Any]]) -> str:
    """What h_theta reaches, one sentence with its source."""
    row = next(r for r in records if r["task"] == "classify" and r["preset"] == "theta")
    low, high = row["intervals"]["accuracy"]
    return (
        f"h_theta, the VGG13 of Eq. 3 and 8, reaches {percent(row['metrics']['accuracy'])} on plain images of "
        f"{row['data']} ({percent(low)} to {percent(high)}, n {row['n']:,}, {row['seconds'] / 60:.0f} minutes): "
        f"{source(row)}."
    )


def measured(name: str) -> dict[str, dict[str, Any]]:
    """The figures of a scheme's records by `quick`, each under what it was measured on, with those of plain images."""
    out: dict[str, dict[str, Any]] = {}
    records = table_records()
    rows = [row for row in records if row["task"] not in ("attack", "similarity")]
    rows += telling(row for row in records if row["task"] in ("attack", "similarity") and row["scheme"] == name)
    for row in rows:
        ours = row["scheme"] == name or (row["scheme"] == "none" and row["task"] == "classify")
        if not ours or row["task"] not in MEASURED or row["preset"] not in (None, "quick") or silent(row):
            continue
        what = f"{row['attack']}, {row['threat']}" if row["task"] == "attack" else row["task"]
        kind = ", plain images" if row["scheme"] == "none" else ""
        kind += ", by an earlier recipe" if row["earlier"] else ""
        figures = {key: round(row["metrics"][key], 4) for key in MEASURED[row["task"]] if key in row["metrics"]}
        out[f"{row['data']}, {what}{kind}"] = {**figures, "n": row["n"], "commit": row["commit"]}
    return out


def card(name: str) -> str:
    """The card of a scheme, as Markdown."""
    scheme = open_learned(name)
    records = table_records()
    training = scheme.training
    transformation = training["transformation"]
    size = sum(tensor.numel() for tensor in scheme.network.parameters()) / 1e6
    lines = [
        f"# {name}",
        "",
        f"A transformation network that turns an image into a woven texture. U-Net, {size:.2f} million parameters, "
        f"widths {', '.join(map(str, scheme.network.config.widths))}, learned on {training['images']:,} images of "
        f"{training['data']} with the labels of {training['data']}, preset `{training['preset']}`, seed "
        f"{training['seed']}, {transformation['steps']:,} steps, {transformation['seconds'] / 60:.0f} minutes.",
        "",
        "## What it is for, and what it is not",
        "",
        "- It hides images from view: from a person. The fixed matchers below name an image somewhat more often than "
        "guessing does, and often once the mean is subtracted. That is all it does: a network that learns from "
        "protected photographs of 96 pixels and others of the kind draws the shapes of many (docs/audit.md).",
        "- It ships with the package, so it is **public**. Whoever has it can protect images of their own and learn "
        "from those pairs to undo it; the inverse that was trained beside it left "
        f"{percent(transformation['inverse'])} of the variance unexplained at the last step, so most of the image is "
        "there to be recovered. An owner learns another, from nothing: one that was continued from this one "
        "(`--init`) is not private, as stands below.",
        "- It is not the scheme of Sirichotedumrong and Kiya (2020). It has no discriminator towards preliminary "
        "protected images and no frozen VGG13; a viewer that learns along takes their place, the output is "
        "contrast-normalised, and the input is joined to a fixed pattern (docs/architecture.md). The paper's objective "
        "to the letter is the preset `literal`.",
        "- The accuracy on the data it was learned on flatters it: the transformation has itself learned those labels.",
        "",
        "## Accuracy of a classifier trained from scratch",
        "",
        *accuracy_rows(records, name),
        "",
        theta_line(records),
        "",
        "## What a viewer sees",
        "",
        "The protected images themselves, without any attack, after rounding to 8 bits. SSIM as scikit-image defines "
        "it; re-identification by the best of four matchers among 100 candidates of the same class (all of a class "
        "that has fewer).",
        "",
        "**Read the last column too.** The protected images share most of their texture, which differs from image to "
        "image by a few levels, and that blinds the matchers. The last column is for a viewer who has many protected "
        "images (a cloud has) and subtracts their mean. What is left still looks like noise to us, stretched to full "
        "contrast, but the matchers find the photograph in it: it is in there, and not far below the surface.",
        "",
        *similarity_rows(records, name),
        "",
        "The first 64 test images of CIFAR-10 and the first 16 of photos96, plain on the left, drawn by "
        f"`imageveil sheet {name} --data DATA --images N --out FILE`:",
        "",
        f"![64 images of CIFAR-10]({name}-cifar10.png)",
        "",
        f"![16 photographs of 96 pixels]({name}-photos96.png)",
        "",
        *undo_section(records, name),
        *continued_section(records, scheme),
        *literal_section(records, scheme),
        *ablation_section(),
        "## Training",
        "",
        "| step | value |",
        "|---|---|",
        *(f"| {key} | {value} |" for key, value in transformation.items()),
        *(f"| encoder: {key} | {value} |" for key, value in training.get("encoder", {}).items()),
        "",
    ]
    return "\n".join(lines)
