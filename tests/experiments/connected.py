"""An experiment in one of several processes: ``main(mode, module, *arguments)``."""

import importlib


def main(mode, module, *arguments):
    importlib.import_module(module).main([*arguments, "--distributed", mode])
