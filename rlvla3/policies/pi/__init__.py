"""The flow-expert family: pi0, pi0.5 and SmolVLA. A vision-language model encodes the observation, and a narrower expert denoises the actions.

families.py         the settings of the three in recipes
policy.py           the three as policies
network.py          pi0 and pi0.5
paligemma.py        their vision-language model
siglip.py           the vision tower of all three
expert.py           the action expert of all three
options.py          the sizes of pi0 and pi0.5
smolvla.py          SmolVLA
smolvlm.py          its vision-language model
smolvla_options.py  its sizes
"""
