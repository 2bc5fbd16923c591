"""OpenVLA-OFT: action tokens in parallel, from a vision-language model. A regression head may take the place of tokens, for cloning and evaluation.

family.py   its settings in recipes
policy.py   it as a policy
network.py  the network
vision.py   the two vision towers and the projector
l1.py       the regression head
options.py  the sizes
"""
