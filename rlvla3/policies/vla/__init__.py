"""What all pretrained vision-language-action policies share. A family adds its network, its sizes and its usual processing.

options.py      the settings that all families have
start.py        the settings that a policy starts with: of its family, a preset, its checkpoint and the recipe
policy.py       the policy: processing, network, head and value function
flow_policy.py  the same for families that denoise
network.py      the interface of a family's network
decoder.py      decoder layers as Gemma and Llama have them
sizes.py        the sizes of decoder layers and vision towers
value.py        the value function
adapters.py     low-rank adapters (LoRA)
origin.py       the checkpoint that a policy was made from, for its export
"""
