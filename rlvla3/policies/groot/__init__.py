"""GR00T: a vision-language model, and a diffusion transformer that denoises the actions."""
