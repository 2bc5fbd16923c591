"""What all pretrained vision-language-action policies share. A family adds its network, its sizes and its processing.

network.py  the interface of a family's network
"""
