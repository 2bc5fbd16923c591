"""The trainer's computation: from micro-batches to gradients, weights and checkpoints, on one rank or on several.

Nothing here starts a process, waits for trajectories or sends weights. The workers in runtimes/ do that and call this package.

    learner.py          from micro-batches to optimizer steps: one learner on each rank
    credit.py           advantages and value targets of the decisions of an update
    recorded.py         what was recorded of decisions, brought to the device ahead of time
    objective.py        the policy's part of the loss
    earlier_policy.py   the proximal and the reference policy: their weights and log-probs
    passes.py           gradient checkpointing and compilation
    adamw.py            the optimizer: fused on a GPU
    critic.py           extra training of the critic on kept features
    epoch_metrics.py    the losses and ratios of one epoch
    ranks.py            communication between the trainer's ranks
    parallel.py         chooses how the policy is laid out on the ranks
    data_parallel.py    the policy as whole copies
    fsdp.py             the policy in shards
    offload.py          tensors that leave the device while another worker uses it
    checkpoint.py       checkpoints: written beside training, read without running code
    cloning.py          behaviour cloning from demonstrations
"""
