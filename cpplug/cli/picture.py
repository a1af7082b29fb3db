"""``cpplug picture``: draw a product."""

from __future__ import annotations

from pathlib import Path

import click

from cpplug.cli.state import State


@click.command()
@click.argument("product")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    help="PNG file to write; default beside the product's name, in this folder.",
)
@click.pass_obj
def picture(state: State, product: str, output: Path | None) -> None:
    """Draw the image product PRODUCT (id, or the beginning of its checksum) as PNG."""
    from cpplug.api.errors import DataError
    from cpplug.api.product import ImageProduct
    from cpplug.engine.picture import draw_product
    from cpplug.engine.products import read_product

    with state.repository() as repo:
        row = repo.dataset(product)
        path = repo.root / row.path
    content = read_product(path)
    if not isinstance(content, ImageProduct):
        raise DataError(f"{row.dataset_type} {row.id} is a table; there is no image to draw.")
    camera = state.instrument(row.data_id.instrument).camera
    detector = camera.detector(row.data_id.detector)
    target = output or Path(f"{path.stem}.png")
    n = content.metadata.get("CPP_NINP", "?")
    title = f"{row.dataset_type} of {row.data_id.instrument} {detector.name}, {n} inputs\n{row.run}"
    draw_product(target, content, detector, title)
    click.echo(str(target))
