"""What all pretrained vision-language-action policies share. A family adds its network, its sizes and its processing.

options.py   the settings that all families have
network.py   the interface of a family's network
value.py     the value function
adapters.py  low-rank adapters (LoRA)
"""
