"""Writes episodes as a LeRobotDataset, version 3.0 (lerobot 0.4 and later): `rlvla3 record` (docs/recording.md). lerobot.py of the package above reads it.

dataset_folder.py   a folder that appears with its dataset complete, or not at all
dataset_writer.py   a dataset, episode by episode
encodings.py        how frames are kept: H.264, AV1, or PNG
features.py         the arrays of a dataset, from the spaces of a simulator
statistics.py       mean, spread and quantiles of each array, exact
tables.py           its Parquet files
"""
