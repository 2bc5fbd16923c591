"""Policies: from a batch of observations to action chunks, log-probs and values.

A policy knows nothing of simulators, tickets, workers or optimizers. It is built from `Spaces`, and the engine sees only the interface in base.py. The settings
(options.py), the registry and saved_policy.py never import torch before a policy is built, so that a recipe can be checked quickly.

    base.py          the interface: Policy, Observations, Decisions, Evaluation
    registry.py      from a name in a recipe to a policy
    options.py       the settings of each policy, and the arrays of its traces
    mini_vla.py      a small vision-language-action policy
    layers.py        its layers
    tokenizer.py     its instructions as bytes
    actor_critic.py  a small actor-critic for Gymnasium
    heads.py         the interface of action heads
    flow.py          the head for flow matching
    tokens.py        the head for action tokens
    noise.py         sampling noise that depends only on the decision
    conversion.py    between the data plane's arrays and tensors
    saved_policy.py  the config.json of a saved policy
"""
