"""Once imported, MMEngine computes only once in a process what takes it long and stays the same."""

from functools import cache

import mmengine.config.utils
import mmengine.runner.runner
from yapf.yapflib import yapf_api

format_code = yapf_api.FormatCode


@cache
def formatted(text, **style):
    return format_code(text, style_config=dict(style))


# A Runner lays out its config four times, with what takes as long as a training step.
yapf_api.FormatCode = lambda text, style_config: formatted(text, **style_config)
# Compilers are asked for their versions.
mmengine.runner.runner.collect_env = cache(mmengine.runner.runner.collect_env)
# To find a config in a package, each of the package's metafiles is read.
mmengine.config.utils.load = cache(mmengine.config.utils.load)
