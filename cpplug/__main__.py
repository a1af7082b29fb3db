"""``python -m cpplug`` is the command ``cpplug``."""

from cpplug.cli.main import main

if __name__ == "__main__":
    main()
