"""The flow-expert family: pi0, pi0.5 and SmolVLA. A vision-language model encodes the observation, and a narrower expert denoises the actions."""
