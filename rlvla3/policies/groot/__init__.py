"""GR00T N1.5: a vision-language model, and a diffusion transformer that denoises the actions.

family.py       its settings in recipes
policy.py       it as a policy
network.py      the network
backbone.py     the vision-language model
action_head.py  the action head, with weights of its own for each kind of robot
transformer.py  the transformers of the action head
options.py      the sizes
"""
