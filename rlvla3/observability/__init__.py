"""What a run shows and what it leaves behind: events, times, metrics, progress, the run directory, the record and the trace.

The session emits events (events.py). Watchers turn them into a table, lines, files and curves. A watcher never answers, so that no part of a run waits for it
or depends on it. Nothing here imports torch.

    events.py        the events of a run, and the interface of a watcher
    run_watchers.py  all watchers of a run, from its start to its end
    outlived.py      what keeps the errors and delays of a watcher from the run
    appended_file.py files that grow by whole entries, on a disk that may be full
    kept_folder.py   a run directory that is removed under way is made again
    meter.py         the time of every worker by stage (shared memory)
    sampling.py      a meter that also writes each time in a stage to a file, for profiles and traces
    progress.py      the state of a run, and plain lines of progress
    progress_line.py progress of commands that are no runs, on a terminal
    live_table.py    the table in a terminal
    metrics_file.py  metrics.jsonl, and JSON lines on a stream
    machine_use.py   machine.jsonl: cores, memory and GPUs of the machine
    curves.py        the metrics as curves with names
    tensorboard.py   these curves in TensorBoard's files
    trackers/        these curves in Weights & Biases, trackio, MLflow, SwanLab
    glossary/        what each metric means
    event_json.py    an event as JSON data
    summary.py       summary.json
    run_directory.py the folder of a run, and complete files and checkpoints in it
    run_record.py    the record that a run is replayed from
    tracing.py       trace.json of a run, made of the events in trace_events.py
    film.py          an episode with its frames and decisions, and the JSON file beside its video
    episode_video.py episodes as videos
    video_files.py   the films of a run, in its folder
    intervals.py     confidence intervals of success rates
    formatting.py    numbers and results as text
    worker_times.py  mean times over workers of one kind
"""
