"""The Lightning callbacks that `conf/callbacks/` names."""
