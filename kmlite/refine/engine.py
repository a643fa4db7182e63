"""Run one function over many tasks, in processes of this machine or as Ray tasks, and outlive workers that are killed.

A task writes its own result to disk under a temporary name and renames it, so it may be run again at any time.
"""

import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import click

from kmlite.runs import end_with_parent

TRIES = 3  # pools that may break with nothing finished in between: then one task kills every worker that takes it


def run(function: Callable, tasks: list, workers: int, engine: str = "local", address: str = "") -> Iterator[tuple[int, Any]]:
    """(number of the task, its result) as each is finished, in no order.

    Args:
        workers: processes; one, or a single task, runs in this process.
        engine: local, or ray with `address` ("" starts one on this machine).
    """
    if engine == "ray":
        yield from run_ray(function, tasks, workers, address)
    elif workers == 1 or len(tasks) < 2:
        yield from enumerate(map(function, tasks))
    else:
        yield from run_local(function, tasks, workers)


def run_local(function: Callable, tasks: list, workers: int) -> Iterator[tuple[int, Any]]:
    left = dict(enumerate(tasks))
    broken = 0
    while left:
        # spawn, not fork: a fork of a process with threads (pyarrow has some) may hang; and never multiprocessing.Pool, which
        # waits for ever for a worker that was killed
        context = multiprocessing.get_context("spawn")
        pool = ProcessPoolExecutor(min(workers, len(left)), mp_context=context, initializer=end_with_parent)
        try:
            futures = hand_over(pool, function, left)
            for future in as_completed(futures):
                result = future.result()
                del left[futures[future]]
                broken = 0
                yield futures[future], result
        except BrokenProcessPool as error:
            for worker in multiprocessing.active_children():
                worker.kill()  # the pool waits for ever for one that it had just started when it broke
            broken += 1
            if broken >= TRIES:
                raise click.ClickException(
                    f"workers were killed {TRIES} times over, most likely for want of memory. What was finished is kept:\n"
                    '  run the same command again with fewer of them: ARGS="--workers 1"'
                ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def hand_over(pool: ProcessPoolExecutor, function: Callable, tasks: dict[int, Any]) -> dict:
    """{future: number of its task}. Handing over runs none of them, so what goes wrong here is the pool: a worker killed while it
    starts shows as a broken pool, a closed pipe (OSError) or a bad descriptor (ValueError), as the moment has it."""
    try:
        return {pool.submit(function, task): number for number, task in tasks.items()}
    except (OSError, ValueError) as error:
        raise BrokenProcessPool("a worker could not be started") from error


def run_ray(function: Callable, tasks: list, workers: int, address: str) -> Iterator[tuple[int, Any]]:
    """The same, as Ray tasks. The raw and the refined folder must be the same paths on all nodes."""
    try:
        import ray
    except ImportError as error:
        raise click.ClickException("--engine ray needs Ray: .venv/bin/python -m pip install -e '.[ray]'") from error
    from kmlite import paths

    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # leave CUDA_VISIBLE_DEVICES alone, as Ray will soon by default
    place = {"address": address} if address else {"num_cpus": workers, "include_dashboard": False}
    ray.init(**place, log_to_driver=False, logging_level="error", runtime_env={"env_vars": {"PYTHONPATH": str(paths.ROOT)}})
    try:
        remote = ray.remote(num_cpus=1, max_retries=TRIES)(function)
        most = 2 * max(workers, int(ray.cluster_resources().get("CPU", 1)))
        waiting = list(enumerate(tasks))[::-1]
        running: dict = {}
        while waiting or running:
            while waiting and len(running) < most:
                number, task = waiting.pop()
                running[remote.remote(task)] = number
            [done], _ = ray.wait(list(running), num_returns=1)
            yield running.pop(done), ray.get(done)
    finally:
        ray.shutdown()


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
