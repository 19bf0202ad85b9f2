from absl.flags import FlagHolder, FlagValues

from . import ConfigDict

def DEFINE_config_dict(
    name: str, config: ConfigDict, *, flag_values: FlagValues, sys_argv: list[str]
) -> FlagHolder[ConfigDict]: ...
