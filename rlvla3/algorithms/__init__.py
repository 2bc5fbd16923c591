"""The mathematics of the algorithms (PPO, GRPO, V-trace and their relatives) as pure functions.

Nothing here knows of workers, ranks or files, or keeps tensors between calls. Distributed training must not change a formula: training/ applies these
functions to micro-batches.

    advantages.py     from rewards to advantages and value targets; running statistics (numpy, float64)
    ratios.py         probability ratios of two policies, and metrics of them (torch)
    losses.py         policy, value, reference and entropy losses, as sums over decisions (torch)
    corrections.py    corrections for staleness: which policy the clip is around, and how much each term weighs
"""
