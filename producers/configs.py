"""Every file of config/producers and how it is read: ``meshtasks config check`` looks
at those that are there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from meshtasks.config.settings import Settings
from producers.configuration import producer_config
from producers.homeassistant.config import HomeAssistantConfig
from producers.prometheus.config import PrometheusConfig
from producers.sensornet import config as sensornet
from producers.system.config import SystemConfig
from producers.triton.config import TritonConfig

#: Name of the file without ``.yaml`` → reads it, and raises ConfigError for its faults.
CONFIGS: Mapping[str, Callable[[Settings], object]] = {
    "homeassistant": partial(
        producer_config, name="homeassistant", model=HomeAssistantConfig
    ),
    "prometheus": partial(producer_config, name="prometheus", model=PrometheusConfig),
    "sensornet": sensornet.load,
    "system": partial(producer_config, name="system", model=SystemConfig),
    "triton": partial(producer_config, name="triton", model=TritonConfig),
}
