"""How the suite draws examples: the same ones every time, unless ``--hypothesis-profile=explore`` asks for new ones."""

from hypothesis import settings

settings.register_profile("suite", derandomize=True)
settings.register_profile("explore", derandomize=False, print_blob=True)
settings.load_profile("suite")
