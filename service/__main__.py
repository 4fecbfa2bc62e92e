"""What `ekabridge` starts."""

import gc


def main() -> None:
    """Run the command that was asked for.

    Nothing is garbage of what its imports make: to look through it again and again is a fifth of their time.
    """
    gc.disable()
    from service.cli.main import main as run  # noqa: PLC0415

    gc.freeze()
    gc.enable()
    run()


if __name__ == "__main__":
    main()
