"""The checker behind the shape annotations: an int is accepted where a float is asked for, as Python itself does."""

from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))
