"""Commands about the repository itself: init, ingest, collections, chain, remove-run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cpplug.cli.output import emit_table, format_option
from cpplug.cli.state import State

if TYPE_CHECKING:
    from cpplug.store import Repository
    from cpplug.store.records import CollectionRow

_FOLDER = click.Path(path_type=Path, file_okay=False)


@click.command()
@click.argument("repo", type=_FOLDER)
@click.option(
    "--registry",
    metavar="URL",
    help="Database of the registry, such as postgresql+psycopg://HOST/NAME; default SQLite inside.",
)
@click.pass_obj
def init(state: State, repo: Path, registry: str | None) -> None:
    """Create a repository in folder REPO."""
    from cpplug.store import Repository

    Repository.create(repo, registry).close()
    click.echo(f"Created repository {repo}.", err=True)
    click.echo(str(repo))


@click.command()
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--instrument", default="", help="Ask only this instrument whether a file is its own."
)
@click.option(
    "-t",
    "--transfer",
    type=click.Choice(["auto", "direct", "symlink", "hardlink", "copy", "move"]),
    default="auto",
    show_default=True,
    help="What to do with the file; auto leaves files inside the repository, links others.",
)
@click.option("--output-run", default="", help="RUN collection; default INSTRUMENT/raw/all.")
@click.option("-j", "--jobs", type=click.IntRange(1), default=1, help="Files read at a time.")
@click.option("--fail-fast", is_flag=True, help="Stop at the first file that cannot be used.")
@format_option
@click.pass_obj
def ingest(state: State, /, paths: tuple[Path, ...], format: str, **options: Any) -> int:
    """Register raw files, or all FITS files below folders.

    With -b or CPPLUG_REPO all PATHS are raw files; else the first one is the repository.
    """
    import msgspec

    from cpplug.api.errors import UsageError
    from cpplug.engine.ingest import find_files
    from cpplug.engine.ingest import ingest as bring_in

    root: Path | None = None
    if state.repo is None:
        root, *rest = paths
        if not rest:
            raise UsageError("No raw files are named.", "Write cpplug ingest REPO PATH...")
        paths = tuple(rest)
    with state.repository(root) as repo:
        outcomes = bring_in(
            repo,
            state.catalog,
            find_files(paths),
            instrument=options["instrument"],
            transfer=options["transfer"],
            run=options["output_run"],
            jobs=options["jobs"],
            fail_fast=options["fail_fast"],
            progress=_progress(state),
            emit=state.bus("ingest").emit,
        )
    rows = [msgspec.to_builtins(outcome) for outcome in outcomes]
    bad = [row for row in rows if row["status"] in {"rejected", "conflict"}]
    counts = {
        s: sum(r["status"] == s for r in rows) for s in dict.fromkeys(r["status"] for r in rows)
    }
    if format == "table":
        if bad:
            emit_table(bad, ["status", "path", "reason"], format)
    else:
        columns = ["exposure", "status", "instrument", "path", "reason"]
        shown = [r for r in rows if r["exposure"] is not None] if format == "ids" else rows
        emit_table(shown, columns, format)
    click.echo(", ".join(f"{n} {status}" for status, n in counts.items()), err=True)
    return 5 if bad else 0


def _progress(state: State) -> Any:
    """Draw a counter on a terminal; silent elsewhere."""
    import sys

    if state.no_progress or not sys.stderr.isatty():
        return lambda done, total: None

    def draw(done: int, total: int) -> None:
        click.echo(f"\rread {done}/{total}", err=True, nl=done == total)

    return draw


@click.command()
@click.argument("pattern", required=False)
@click.option(
    "--kind",
    "kinds",
    multiple=True,
    type=click.Choice(["RUN", "TAGGED", "CALIBRATION", "CHAINED"], case_sensitive=False),
    help="Only these kinds.",
)
@click.option("--flatten", is_flag=True, help="Show what a chain is searched in, in order.")
@click.option("--inverse", is_flag=True, help="Show the chains that hold each collection.")
@format_option
@click.pass_obj
def collections(
    state: State,
    pattern: str | None,
    kinds: tuple[str, ...],
    flatten: bool,
    inverse: bool,
    format: str,
) -> None:
    """Show collections: a tree of chains and what they hold. PATTERN may have * and ?."""
    with state.repository() as repo:
        if flatten:
            names = [row.name for row in repo.collections(pattern, kinds or None)]
            found = {row.name: row for row in repo.collections()}
            rows = [_collection_row(found[row.name], 0) for row in repo.flatten(names)]
        elif inverse:
            rows = _inverse(repo, pattern, kinds)
        else:
            rows = _tree(repo, pattern, kinds, flat=format != "table")
    emit_table(rows, ["collection", "kind", "holds", "begin", "end", "doc"], format)


def _collection_row(row: CollectionRow, depth: int) -> dict[str, Any]:
    from cpplug.api.times import format_time

    begin, end = row.coverage or (None, None)
    return {
        "collection": "  " * depth + row.name,
        "kind": row.kind,
        "holds": ", ".join(f"{n} {kind}" for kind, n in sorted(row.counts.items())),
        "begin": format_time(begin) if row.coverage else "",
        "end": format_time(end) if row.coverage else "",
        "doc": row.doc,
        "children": list(row.children),
    }


def _tree(
    repo: Repository, pattern: str | None, kinds: tuple[str, ...], *, flat: bool
) -> list[dict[str, Any]]:
    """Return top collections, each followed by its children; children are not shown again."""
    everything = {row.name: row for row in repo.collections()}
    chosen = [row.name for row in repo.collections(pattern, kinds or None)]
    if flat:
        return [_collection_row(everything[name], 0) for name in chosen]
    inside = {child for name in chosen for child in everything[name].children}
    rows: list[dict[str, Any]] = []

    def add(name: str, depth: int) -> None:
        rows.append(_collection_row(everything[name], depth))
        for child in everything[name].children:
            add(child, depth + 1)

    for name in chosen:
        if name not in inside:
            add(name, 0)
    return rows


def _inverse(repo: Repository, pattern: str | None, kinds: tuple[str, ...]) -> list[dict[str, Any]]:
    everything = repo.collections()
    rows = []
    for row in repo.collections(pattern, kinds or None):
        rows.append(_collection_row(row, 0))
        parents = [parent for parent in everything if row.name in parent.children]
        rows += [_collection_row(parent, 1) for parent in parents]
    return rows


@click.command()
@click.argument("parent")
@click.argument("children", nargs=-1)
@click.option(
    "--mode",
    type=click.Choice(["redefine", "extend", "prepend", "remove", "pop"]),
    default="redefine",
    show_default=True,
    help="redefine replaces the list; extend and prepend move a child that is already there.",
)
@format_option
@click.pass_obj
def chain(state: State, parent: str, children: tuple[str, ...], mode: str, format: str) -> None:
    """Define or change the chain PARENT.

    With --mode pop, CHILDREN are positions (default 0; negative ones behind --). Commas separate
    names as blanks do.
    """
    from cpplug.api.errors import UsageError
    from cpplug.api.events import ChainChanged

    words = [word for child in children for word in child.split(",") if word]
    if not words and mode != "pop":
        raise UsageError(
            f"No collections are named, and {parent!r} is left as it is.",
            f"To see a chain: cpplug collections {parent}.",
        )
    with state.repository() as repo:
        if mode == "pop":
            try:
                indices = [int(word) for word in words] or [0]
            except ValueError:
                raise UsageError(
                    "--mode pop takes positions, not names.", "Use --mode remove."
                ) from None
            names = repo.chain(parent, [], mode="pop", indices=indices)
        else:
            names = repo.chain(parent, words, mode=mode)
    state.bus(f"chain {parent}").emit(ChainChanged(parent=parent, mode=mode, children=names))
    emit_table([{"child": name} for name in names], ["child"], format, title=parent)


@click.command()
@click.argument("collection")
@click.argument("products", nargs=-1, required=True)
@click.option("--remove", is_flag=True, help="Take them out instead.")
@click.pass_obj
def tag(state: State, collection: str, products: tuple[str, ...], remove: bool) -> None:
    """Put PRODUCTS (ids, or the beginnings of checksums) into the TAGGED collection COLLECTION.

    It is made if it is missing. A tagged product serves every date, as one in a RUN does.
    """
    with state.repository() as repo:
        ids = [repo.dataset(product).id for product in products]
        if remove:
            repo.untag(collection, ids)
        else:
            repo.tag(collection, ids)
    click.echo(f"{'Took' if remove else 'Put'} {len(ids)} {'out of' if remove else 'into'} "
               f"{collection}.", err=True)  # fmt: skip


@click.command("remove-run")
@click.argument("name")
@click.option("--decertify", is_flag=True, help="Also end the validity of what it certified.")
@click.option("--unlink", is_flag=True, help="Also take it out of the chains that hold it.")
@click.option("--delete-raws", is_flag=True, help="Also delete raw files in the repository.")
@click.option("--confirm/--no-confirm", default=True, help="Ask before deleting.")
@click.pass_obj
def remove_run(
    state: State, name: str, decertify: bool, unlink: bool, delete_raws: bool, confirm: bool
) -> None:
    """Delete the RUN collection NAME, its products and their files.

    Refuses while one of its products is certified, and while it holds raw files that lie in the
    repository.
    """
    with state.repository() as repo:
        row = repo.collection(name)
        held = ", ".join(f"{n} {kind}" for kind, n in row.counts.items()) or "nothing"
        if confirm and not _agreed(f"Delete {name} ({held})?"):
            click.echo("Nothing was deleted.", err=True)
            return
        removed = repo.remove_run(name, decertify=decertify, unlink=unlink, delete_raws=delete_raws)
    click.echo(
        f"Deleted {name}: {len(removed.datasets)} products, {removed.n_raws} raw frames, "
        f"{len(removed.files)} files.",
        err=True,
    )


def _agreed(question: str) -> bool:
    from cpplug.api.errors import UsageError

    try:
        return click.confirm(question, err=True)
    except click.Abort:
        click.echo(err=True)
        raise UsageError(
            "Nobody answered, so nothing was deleted.", "Without a terminal give --no-confirm."
        ) from None
