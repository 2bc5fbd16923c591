"""Demonstrations recorded in files, for behaviour cloning: LIBERO's and ManiSkill's HDF5 files and LeRobot's datasets (docs/demonstrations.md).

Nothing here imports torch or starts a simulator, so that the files can be checked before a run begins. training/cloning.py trains on the demonstrations.

    selection.py           which episodes a recipe clones from
    served_tasks.py        which task of the recipe an episode serves
    file_demonstration.py  one recorded episode as observations and action chunks of the simulator
    action_conversion.py   turns recorded actions into the simulator's, as the recipe says
    meaning.py             whether recorded actions mean what the simulator's mean
    demonstration_file.py  the interface of a file format: episodes, and arrays by name
    room.py                where frames are kept while a policy learns: in memory, or in a temporary folder
    formats.py             recognises the format of a file
    libero.py              LIBERO's HDF5 files
    maniskill.py           ManiSkill's HDF5 files
    hdf5.py                the common part of both
    lerobot.py             LeRobot's datasets
    lerobot_metadata.py    the schemas of their meta folder
    frames.py              decodes, turns and resizes frames
    video_frames.py        reads frames from an encoded video
    writing/               writes episodes as a LeRobot dataset
"""
