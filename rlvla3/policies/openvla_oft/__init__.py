"""OpenVLA-OFT: action tokens in parallel, from a vision-language model."""
