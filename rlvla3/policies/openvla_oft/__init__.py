"""OpenVLA-OFT (Kim et al., "Fine-tuning vision-language-action models", arXiv 2502.19645): all actions of a chunk in one pass of a language model.

options.py  sizes of the network
vision.py   the two vision towers and the projector
network.py  the network
l1.py       its second head: actions by regression, for evaluation and cloning
"""
