"""Runs a test's work on several processes of one gloo group."""

import gc

from torch import distributed, multiprocessing

# The processes are forked from one that has imported what they need.
multiprocessing.set_forkserver_preload(["tests.ranks", "gazelit.losses", "gazelit.stages"])


def _rank(rank, work, world, folder):
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world)
    work(rank, world, folder)
    # An object that still holds the group when the interpreter ends aborts the process: gloo's threads then drop
    # their tensors, and the lock that this takes is gone. DDP's reference cycles hold the group until collected.
    gc.collect()
    distributed.destroy_process_group()


def on_ranks(work, world, folder):
    """Calls ``work(rank, world, folder)`` on each of ``world`` processes, and waits for all."""
    multiprocessing.start_processes(_rank, (work, world, folder), world, start_method="forkserver")
