"""`gazelit prepare`: a store by one process, by shards that are merged, or by a cluster."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from gazelit.data.images.dicom import MAX_PIXELS
from gazelit.data.store.prepare import Options, prepare_by
from gazelit.data.store.schema import Source
from gazelit.data.store.shards import Shard, merge_shards, prepare_shard
from gazelit.errors import InputError

#: How often a shard is started again after its machine was lost.
_RETRIES = 8


def prepare_wide(
    source: Source,
    out: Path,
    size: tuple[int, int] = (640, 512),
    bits: int = 8,
    require_gaze: bool | None = None,
    strict: bool = False,
    workers: int | None = None,
    max_pixels: int = MAX_PIXELS,
    shard: str | None = None,
    merge: bool = False,
    engine: Literal["local", "ray"] = "local",
    shards: int | None = None,
) -> None:
    """Reads a source into a prepared store.

    The same source and options give the same bytes, whatever the engine, the number of workers or shards, and
    interruptions. See :func:`gazelit.data.store.prepare.prepare`. Many arguments, because each is an option of the
    command line.

    Args:
        source: What to read, such as ``EGDCXR``.
        out: Folder of the store; it appears when it is complete.
        size: Working resolution as height and width, multiples of 32; the aspect ratio is kept, the rest padded.
        bits: Depth of the stored images, 8 or 16.
        require_gaze: Leave out images without valid gaze; unless given, it is done if the source has any gaze.
        strict: Stop with an error if a case has to be left out; decoded films are kept for the next run.
        workers: Processes that decode; as many as cores unless given.
        max_pixels: Leave out films that claim more pixels; memory for one film is bounded in proportion.
        shard: Decode only one share of the films, such as ``3/16``; each share may be decoded on another machine.
        merge: Make the store of its shards, which are then removed.
        engine: ``local``, or ``ray``: the Ray cluster of ``RAY_ADDRESS`` decodes the shards, and they are merged.
        shards: With ``ray``, the number of shards; four for each of its processors unless given.

    Raises:
        InputError: The source or an option cannot be used, ``out`` holds something else, no case is left, or a shard is
            missing, damaged or of other data or options.
    """
    options = Options(size, bits, require_gaze, strict, workers, max_pixels)
    if merge and (shard is not None or engine == "ray"):
        raise InputError("merge: goes without --shard, after all of them are done, and without --engine ray")
    if engine == "ray" and (shard is not None or workers is not None):
        raise InputError("engine: ray decides what runs where; leave out --shard and --workers")
    if shards is not None and engine != "ray":
        raise InputError("shards: goes with --engine ray; without it name each: --shard 1/N to N/N, then --merge")
    if shards is not None and shards < 1:
        raise InputError(f"shards: must be at least 1, not {shards}")
    if engine == "ray":
        _on_ray(source, out, options, shards)
    if merge or engine == "ray":
        merge_shards(source, out, options)
    elif shard is not None:
        prepare_shard(source, out, Shard.parse(shard), options)
    else:
        prepare_by(source, out, options)


def _on_ray(source: Source, out: Path, options: Options, count: int | None) -> None:
    """Decodes all shards on the Ray cluster of ``RAY_ADDRESS``.

    No cluster is started here: on one machine processes do as well. A head node of Ray asks other machines for its
    address, and reports its use to Ray's makers (docs/scale.md).
    """
    if not os.environ.get("RAY_ADDRESS"):
        raise InputError(
            "engine: ray needs a cluster; start one (docs/scale.md) and name it in RAY_ADDRESS, or leave out --engine"
        )
    try:
        import ray
    except ImportError as error:
        raise InputError("engine: ray is not installed; pip install 'gazelit[ray]'") from error
    ray.init(log_to_driver=False)
    try:
        count = count or 4 * max(1, int(ray.cluster_resources().get("CPU", 1)))
        alone = Options(options.size, options.bits, options.require_gaze, options.strict, 1, options.max_pixels)
        # A shard whose machine is lost is started again on another one, and continues after the films that were
        # decoded.
        task = ray.remote(num_cpus=1, max_retries=_RETRIES)(prepare_shard)
        waiting = [task.remote(source, out.resolve(), Shard(number, count), alone) for number in range(1, count + 1)]
        while waiting:
            done, waiting = ray.wait(waiting)
            try:
                ray.get(done)
            except ray.exceptions.RayTaskError as error:
                if isinstance(error.cause, InputError):
                    raise error.cause from error
                raise
    finally:
        ray.shutdown()
