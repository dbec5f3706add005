#!/usr/bin/env python3
"""The decoder of decoder.py stepped by several ranks of PyTorch over gloo: DistributedDataParallel, fully sharded (FSDP 1
and 2), or ranks that do not talk. Same words, same lines on standard output as parallel_bench.
usage: mpirun -n 2 --bind-to core ddp.py --model medium --wrap ddp [--bucket_mb 25] [--impl compile] [--serve] ..."""
import argparse
import functools
import json
import os
import statistics
import sys
import time

import timing


def options():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--model", default="medium")
    p.add_argument("--wrap", choices=("none", "ddp", "fsdp1", "fsdp2"), default="ddp",
                   help="none: ranks do not talk; fsdp1: FullyShardedDataParallel; fsdp2: fully_shard; both by block")
    p.add_argument("--bucket_mb", type=float, default=25, help="of ddp")
    p.add_argument("--static_graph", action="store_true", help="of ddp")
    p.add_argument("--impl", choices=("sdpa", "compile", "blocks"), default="sdpa",
                   help="compile: the whole model under torch.compile; blocks: each block by itself")
    p.add_argument("--optimizer", choices=("default", "foreach", "fused"), default="fused")
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--steps", type=int, default=5)
    p.add_argument("--warmup", type=int, default=2)
    p.add_argument("--serve", action="store_true")
    return p.parse_args()


args = options()
import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402
import decoder  # noqa: E402


def wrapped(model):
    if args.impl == "blocks":
        for block in model.blocks:
            block.compile()
    if args.wrap == "ddp":
        return torch.nn.parallel.DistributedDataParallel(
            model, bucket_cap_mb=args.bucket_mb, gradient_as_bucket_view=True, static_graph=args.static_graph)
    if args.wrap == "fsdp1":
        from torch.distributed.fsdp import FullyShardedDataParallel, ShardingStrategy
        from torch.distributed.fsdp.wrap import transformer_auto_wrap_policy
        policy = functools.partial(transformer_auto_wrap_policy, transformer_layer_cls={decoder.Block})
        return FullyShardedDataParallel(model, auto_wrap_policy=policy, use_orig_params=True,
                                        sharding_strategy=ShardingStrategy.FULL_SHARD, device_id=torch.device("cpu"))
    if args.wrap == "fsdp2":
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard
        mesh = init_device_mesh("cpu", (dist.get_world_size(),))
        for block in model.blocks:
            fully_shard(block, mesh=mesh)
        fully_shard(model, mesh=mesh)
    return model


def start_ranks():
    """Rank and number of ranks, as mpirun gives them; torchrun's words work too."""
    rank = int(os.environ.get("OMPI_COMM_WORLD_RANK", os.environ.get("RANK", "0")))
    ranks = int(os.environ.get("OMPI_COMM_WORLD_SIZE", os.environ.get("WORLD_SIZE", "1")))
    store = dist.TCPStore("127.0.0.1", int(os.environ["MASTER_PORT"]), ranks, is_master=rank == 0)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=ranks)
    return rank, ranks


def gathered(values, ranks):
    """(ranks, len(values)) of everybody's numbers."""
    mine = torch.tensor(values, dtype=torch.float64)
    out = [torch.empty_like(mine) for _ in range(ranks)]
    dist.all_gather(out, mine)
    return torch.stack(out)


def main():
    rank, ranks = start_ranks()
    timing.prepare(args)
    config = decoder.CONFIGS[args.model]
    model = wrapped(decoder.Decoder(config, args.impl))
    stepper = timing.Stepper(args, model, decoder.batches(config, config["batch"], 1 + rank))
    done = []

    def turn(steps):
        dist.barrier()
        mine = [stepper.step() for _ in range(steps)]
        together = (ranks / (1 / gathered(mine, ranks)).sum(0)).tolist()  # harmonic mean over ranks
        done.extend(together)
        return [round(ms, 3) for ms in together]

    turn(args.warmup)
    done.clear()
    if args.serve:
        if rank == 0:
            print("[]", flush=True)
        while True:
            line = sys.stdin.readline() if rank == 0 else ""
            steps = int(gathered([int(line) if line else 0], ranks).max())
            if steps == 0:
                break
            ms = turn(steps)
            if rank == 0:
                print(json.dumps(ms), flush=True)
    else:
        turn(args.steps)
    if rank == 0:
        median = statistics.median(done)
        print(json.dumps({
            "impl": "torch %s %s %s" % (torch.__version__, args.wrap, args.impl), "model": args.model, "ranks": ranks,
            "steps": len(done), "step_ms": [round(f(done), 3) for f in (statistics.median, min, max)],
            "items_per_s": round(1e3 * ranks * config["batch"] * config["tokens"] / median, 3),
            "loss": stepper.losses[-1]}), flush=True)
    time.sleep(0.2)  # rank 0 holds the store that others still use
    os._exit(0)  # thread pools and compile workers take seconds to leave on their own


main()
