"""`python -m rlvla3` is the command `rlvla3`."""

import sys

if __name__ == "__main__":
    if not sys.flags.safe_path:
        del sys.path[0]  # `python -m` puts the working folder first, where a file such as yaml.py would hide a package that we need
    from rlvla3.cli import main

    sys.exit(main())
