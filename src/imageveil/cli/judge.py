"""Commands that measure: what a viewer sees, what attacks get, the audit."""

from pathlib import Path
from typing import Annotated

import typer

from imageveil.cli.options import ClassifierFile, Data, DeviceName, Precision, RecogniserFile, Seed, SurrogateFile, app
from imageveil.errors import UsageError


@app.command()
def similarity(
    scheme: Annotated[str, typer.Argument(help="Shipped name or scheme file.")],
    data: Data,
    split: Annotated[str, typer.Option(help="train | test.")] = "test",
    out: Annotated[Path | None, typer.Option(help="Write the result record to this JSON file.")] = None,
    seed: Seed = 0,
) -> None:
    """Measure what protected images still show, without any attack."""
    from imageveil.audit.similarity import run_similarity

    print(run_similarity(scheme, data, split=split, out=out, seed=seed))


@app.command()
def sheet(
    scheme: Annotated[str, typer.Argument(help="Shipped name or scheme file.")],
    data: Data,
    out: Annotated[Path, typer.Option(help="PNG file to write.")],
    split: Annotated[str, typer.Option(help="train | test.")] = "test",
    images: Annotated[int, typer.Option(help="How many, from the first on.")] = 64,
) -> None:
    """Draw images beside their protected selves."""
    from imageveil.audit.sheets import run_sheet

    print(run_sheet(scheme, data, out=out, split=split, images=images))


@app.command()
def attack(
    attack: Annotated[str, typer.Argument(help="Name of an attack; a wrong one lists them.")],
    scheme: Annotated[str, typer.Argument(help="Shipped name or scheme file.")],
    data: Data,
    threat: Annotated[
        str, typer.Option(help="ciphertext | recipe | pairs | oracle | gradients: what the attacker has.")
    ] = "ciphertext",
    plain: Annotated[str | None, typer.Option(help="Unpaired plain images from elsewhere, in place of half.")] = None,
    images: Annotated[
        int | None, typer.Option(min=1, help="Protected images the attacker has; half of all otherwise.")
    ] = None,
    pairs: Annotated[int, typer.Option(min=1, help="Plain/protected pairs under --threat pairs.")] = 1,
    test_images: Annotated[int, typer.Option(min=2, help="Judge on so many test images.")] = 1000,
    preset: Annotated[str, typer.Option(help="Budget of an attack that trains: paper | quick | smoke.")] = "quick",
    set_: Annotated[list[str] | None, typer.Option("--set", help="name=value, a field of the attack.")] = None,
    run: Annotated[Path | None, typer.Option(help="Directory of its training; the same command continues.")] = None,
    classifier: ClassifierFile = None,
    recogniser: RecogniserFile = None,
    device: DeviceName = "auto",
    precision: Precision = "auto",
    out: Annotated[Path | None, typer.Option(help="Write the result record to this JSON file.")] = None,
    sheet: Annotated[
        Path | None, typer.Option(help="Draw the first images to this PNG: plain, protected, guessed.")
    ] = None,
    seed: Seed = 0,
) -> None:
    """Put a scheme to an attack and print what it gets, beside what guessing gets."""
    from imageveil.audit.run_attack import parse_values, run_attack
    from imageveil.training.device import open_device

    print(
        run_attack(
            attack,
            scheme,
            data,
            threat=threat,
            plain=plain,
            images=images,
            pairs=pairs,
            test_images=test_images,
            values=parse_values(attack, set_ or ()),
            preset=preset,
            run=run,
            device=open_device(device, precision=precision),
            classifier=classifier,
            recogniser=recogniser,
            out=out,
            sheet=sheet,
            seed=seed,
        )
    )


@app.command()
def controls(
    out: Annotated[Path, typer.Option(help="Folder for the records.")],
    data: Annotated[str | None, typer.Option(help="Images with the splits train and test, as for attack.")] = None,
    plain: Annotated[str | None, typer.Option(help="Unpaired plain images from elsewhere, in place of half.")] = None,
    only: Annotated[list[str] | None, typer.Option(help="Only this attack, or attack:scheme; may be repeated.")] = None,
    test_images: Annotated[int, typer.Option(min=2, help="Judge on so many test images.")] = 1000,
    preset: Annotated[str, typer.Option(help="Budget of attacks that train: paper | quick | smoke.")] = "quick",
    run: Annotated[Path | None, typer.Option(help="Directory of their training; the same command continues.")] = None,
    device: DeviceName = "auto",
    precision: Precision = "auto",
    table: Annotated[bool, typer.Option("--table", help="Run nothing; print the records as a table.")] = False,
    seed: Seed = 0,
) -> None:
    """Run the attacks where they are known to work, and say which reach the figure they must."""
    from imageveil.audit.controls import controls_table, run_controls
    from imageveil.training.device import open_device

    if table:
        print(controls_table(out))
        return
    if data is None:
        raise UsageError("running controls needs images: give --data")
    print(
        run_controls(
            data,
            out,
            plain=plain,
            only=only or (),
            test_images=test_images,
            preset=preset,
            run=run,
            device=open_device(device, precision=precision),
            seed=seed,
        )
    )


@app.command()
def audit(
    target: Annotated[
        str | None, typer.Argument(help="Shipped name, scheme file, or folder of protected images.")
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(help="Your plain images: to attack and judge with, or the protected folder's originals."),
    ] = None,
    plain: Annotated[str | None, typer.Option(help="Unpaired plain images from elsewhere for the attacker.")] = None,
    threat: Annotated[list[str] | None, typer.Option(help="Only this threat model; may be repeated.")] = None,
    attack: Annotated[list[str] | None, typer.Option(help="Only this attack, or NAME:field=value; repeatable.")] = None,
    cell: Annotated[
        list[str] | None, typer.Option(help="Only this one of them, named as its folder below cells; repeatable.")
    ] = None,
    preset: Annotated[str, typer.Option(help="Budget of attacks that train: paper | quick | smoke.")] = "quick",
    out: Annotated[Path, typer.Option(help="Run directory; the same command continues there.")] = Path("out/audit"),
    images: Annotated[int | None, typer.Option(min=1, help="Protected images the attacker has; half of all.")] = None,
    pairs: Annotated[
        list[int] | None, typer.Option(min=1, help="Pairs under --threat pairs, 100; may be repeated.")
    ] = None,
    test_images: Annotated[int, typer.Option(min=2, help="Judge on so many test images.")] = 1000,
    classifier: ClassifierFile = None,
    surrogate: SurrogateFile = None,
    recogniser: RecogniserFile = None,
    controls: Annotated[
        Path | None, typer.Option(help="Folder of control records, in place of the same ones of the package.")
    ] = None,
    ceiling: Annotated[str, typer.Option(help="Attack plain images too: none | exact (cheap ones) | all.")] = "exact",
    algorithm: Annotated[str | None, typer.Option(help="Of a folder of protected images: the scheme's name.")] = None,
    block: Annotated[
        int | None, typer.Option(min=1, help="Of a folder of protected images: pixels on a block's side.")
    ] = None,
    table: Annotated[
        Path | None, typer.Option(help="Run nothing; print the cheapest attack on each scheme from records here.")
    ] = None,
    seed: Seed = 0,
    device: DeviceName = "auto",
    precision: Precision = "auto",
) -> None:
    """Put a scheme, or protected images, to every attack, and say what their owner may conclude."""
    from imageveil.audit.audit import AuditOptions, run_audit
    from imageveil.audit.breaks import breaks_table
    from imageveil.training.device import open_device

    if table is not None:
        print(breaks_table(table))
        return
    options = AuditOptions(
        threats=tuple(threat or ()),
        attacks=tuple(attack or ()),
        cells=tuple(cell or ()),
        preset=preset,
        plain=plain,
        images=images,
        pairs=tuple(pairs or (100,)),
        test_images=test_images,
        classifier=classifier,
        surrogate=tuple(surrogate or ()),
        recogniser=recogniser,
        controls=controls,
        ceiling=ceiling,
        algorithm=algorithm,
        block=block,
        seed=seed,
        device=open_device(device, precision=precision),
    )
    print(run_audit(target, data, out, options))
