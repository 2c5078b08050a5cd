"""Rows of a matrix that is larger than the memory: where they come from, and where codes go.

A pass reads every row once, in order, block by block, while one thread reads ahead. Where the rows
are makes no difference: a memory-mapped array, a Zarr array, files, a folder of shards, an object
that yields blocks.
"""

from .._lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "RowBlocks": "_row_blocks",
        "open_rows": "_open",
        "is_row_source": "_sources",
        "default_batch_size": "_row_blocks",
        "row_priorities": "_priorities",
        "CodesWriter": "_writers",
        "open_codes": "_writers",
    },
)
