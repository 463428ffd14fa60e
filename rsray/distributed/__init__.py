"""Everything that runs on Ray: the only place that imports ray and optuna.

Ray reads its settings when it is imported, so they are made here, before any module of this
package can import it. What the user has set stays.
"""

import os

# README.md, section 1, says why.
ENVIRONMENT = {
    # Workers use the driver's environment as it is
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # Images and environments of new nodes come slowly
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "600",
    # Ray prints an error for every actor pool that is none (ray #53727).
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    # Ctrl-C ends the command, not only the search
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
}
for _key, _value in ENVIRONMENT.items():
    os.environ.setdefault(_key, _value)
