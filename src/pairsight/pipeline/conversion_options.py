"""The options of `convert`; no report repeats a conversion, so they lie beside it."""

from typing import Annotated, Literal

from pydantic import Field

from pairsight.config import BaseConfig, Option


class ConvertOptions(BaseConfig):
    """The options of `convert`."""

    data: Annotated[str, Option(argument="SRC", path=True)] = Field(
        description="a run folder, or a dataset: a file, a folder, or OWNER/NAME on the hub"
    )
    out: Annotated[str, Option(argument="DST", path=True)] = Field(
        description="where to write: a folder, or a file where images are embedded"
    )
    to: Annotated[str, Option("--to", value="FORMAT", required=True)] = Field(
        description="the layout, e.g. trl, llama-factory, ms-swift, povid, seva, rlaif-v, llava-instruct, openai"
    )
    container: Annotated[Literal["jsonl", "json", "csv", "parquet", "save_to_disk"] | None, Option("--container")] = (
        Field(None, description="jsonl, json, csv, parquet or save_to_disk; default: what the layout's tools expect")
    )
    images_as: Annotated[Literal["embed", "link", "copy"] | None, Option("--images-as")] = Field(
        None, description="embed images in the rows, copy them beside, or hard-link the copies; default: by container"
    )
    images: Annotated[str | None, Option("--images", path=True)] = Field(
        None, description="the folder that SRC's image names refer to; default: SRC's own"
    )
    format: Annotated[str | None, Option("--format")] = Field(
        None, description="how SRC is read: a format's name, or file.py:Class; default: found out"
    )
    columns: Annotated[str | None, Option("--columns")] = Field(
        None, description="SRC's names of columns, as in prompt=question,image=img"
    )
    on_error: Annotated[Literal["stop", "skip"], Option("--on-error")] = Field(
        "stop", description="stop (default) or skip and count bad rows, and records that the layout cannot hold"
    )
    allow_download: Annotated[bool, Option("--allow-download")] = Field(
        False, description="fetch a dataset on the hub, and images at web addresses"
    )
