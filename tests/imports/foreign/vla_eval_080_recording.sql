BEGIN TRANSACTION;
CREATE TABLE episode_results (
    sid             TEXT NOT NULL,
    eid             TEXT NOT NULL,
    eval_id         TEXT NOT NULL,
    task_name       TEXT,
    episode_id      INTEGER,
    status          TEXT,            -- 'success' | 'fail' | 'error'
    metrics         TEXT,            -- JSON
    steps           INTEGER,
    elapsed_sec     REAL,
    context         TEXT,            -- JSON
    jsonl_path      TEXT,            -- resolved final filename for ``vla-eval export``
    failure_reason  TEXT,
    failure_detail  TEXT,
    PRIMARY KEY (sid, eid)
);
INSERT INTO "episode_results" VALUES('s1','e1','3f1c-LIBEROBenchmark_libero_goal','put the bowl on the stove',0,'success','{"success": true}',90,9.5,'{"name": "put the bowl on the stove", "suite": "libero_goal", "task_id": 1, "episode_idx": 0, "task_idx": 1}','episodes/LIBEROBenchmark_libero_goal/task0001_ep0000_success.jsonl',NULL,NULL);
INSERT INTO "episode_results" VALUES('s1','e2','3f1c-LIBEROBenchmark_libero_goal','put the bowl on the stove',1,'fail','{"success": false}',300,9.5,'{"name": "put the bowl on the stove", "suite": "libero_goal", "task_id": 1, "episode_idx": 1, "task_idx": 1}','episodes/LIBEROBenchmark_libero_goal/task0001_ep0001_fail.jsonl',NULL,NULL);
INSERT INTO "episode_results" VALUES('s1','e3','3f1c-LIBEROBenchmark_libero_goal','put the bowl on the stove',2,'success','{"success": true}',92,9.5,'{"name": "put the bowl on the stove", "suite": "libero_goal", "task_id": 1, "episode_idx": 2, "task_idx": 1}','episodes/LIBEROBenchmark_libero_goal/task0001_ep0002_success.jsonl',NULL,NULL);
INSERT INTO "episode_results" VALUES('s1','e4','3f1c-LIBEROBenchmark_libero_goal','open the middle drawer of the cabinet',0,'success','{"success": true}',90,9.5,'{"name": "open the middle drawer of the cabinet", "suite": "libero_goal", "task_id": 0, "episode_idx": 0, "task_idx": 0}','episodes/LIBEROBenchmark_libero_goal/task0000_ep0000_success.jsonl',NULL,NULL);
INSERT INTO "episode_results" VALUES('s1','e5','3f1c-LIBEROBenchmark_libero_goal','open the middle drawer of the cabinet',1,'success','{"success": true}',91,9.5,'{"name": "open the middle drawer of the cabinet", "suite": "libero_goal", "task_id": 0, "episode_idx": 1, "task_idx": 0}','episodes/LIBEROBenchmark_libero_goal/task0000_ep0001_success.jsonl',NULL,NULL);
INSERT INTO "episode_results" VALUES('s1','e6','3f1c-LIBEROBenchmark_libero_goal','open the middle drawer of the cabinet',2,'error','{"success": false}',0,0.0,'{"name": "open the middle drawer of the cabinet", "suite": "libero_goal", "task_id": 0, "episode_idx": 2, "task_idx": 0}','episodes/LIBEROBenchmark_libero_goal/task0000_ep0002_error.jsonl','model_act','Traceback: ...');
INSERT INTO "episode_results" VALUES('s1','e7','3f1c-LIBEROBenchmark_libero_goal','turn on the stove',0,'fail','{"success": false}',300,9.5,'{"name": "turn on the stove", "suite": "libero_goal", "task_id": 7, "episode_idx": 0, "task_idx": 7}','episodes/LIBEROBenchmark_libero_goal/task0007_ep0000_fail.jsonl',NULL,NULL);
INSERT INTO "episode_results" VALUES('s1','e8','3f1c-LIBEROBenchmark_libero_goal','turn on the stove',1,'success','{"success": true}',91,9.5,'{"name": "turn on the stove", "suite": "libero_goal", "task_id": 7, "episode_idx": 1, "task_idx": 7}','episodes/LIBEROBenchmark_libero_goal/task0007_ep0001_success.jsonl',NULL,NULL);
INSERT INTO "episode_results" VALUES('s1','e9','3f1c-LIBEROBenchmark_libero_goal','turn on the stove',2,'success','{"success": true}',92,9.5,'{"name": "turn on the stove", "suite": "libero_goal", "task_id": 7, "episode_idx": 2, "task_idx": 7}','episodes/LIBEROBenchmark_libero_goal/task0007_ep0002_success.jsonl',NULL,NULL);
INSERT INTO "episode_results" VALUES('s1','e99','3f1c-LIBEROBenchmark_libero_goal','put the bowl on the stove',2,'success','{"success": true}',92,9.5,'{"name": "put the bowl on the stove", "suite": "libero_goal", "task_id": 1, "episode_idx": 2, "task_idx": 1}','episodes/LIBEROBenchmark_libero_goal/task0001_ep0002_success.jsonl',NULL,NULL);
CREATE TABLE eval_metadata (
    eval_id    TEXT PRIMARY KEY,
    safe_name  TEXT NOT NULL,
    metadata   TEXT NOT NULL  -- JSON: benchmark, mode, config, harness_version, server_info, metric_keys
);
INSERT INTO "eval_metadata" VALUES('3f1c-LIBEROBenchmark_libero_goal','LIBEROBenchmark_libero_goal','{"benchmark": "LIBEROBenchmark_libero_goal", "mode": "sync", "config": {"benchmark": "vla_eval.benchmarks.libero.benchmark:LIBEROBenchmark", "subname": "libero_goal", "mode": "sync", "episodes_per_task": 3, "params": {"suite": "libero_goal", "seed": 7}, "throughput_mode": false}, "metric_keys": {"success": "mean"}, "harness_version": "0.8.0", "server_info": {}}');
CREATE TABLE eval_shards (
    eval_id TEXT NOT NULL,
    shard_id INTEGER NOT NULL,
    num_shards INTEGER NOT NULL,
    complete INTEGER NOT NULL,
    PRIMARY KEY (eval_id, shard_id)
);
INSERT INTO "eval_shards" VALUES('3f1c-LIBEROBenchmark_libero_goal',0,1,1);
CREATE TABLE run_metadata (
    singleton INTEGER PRIMARY KEY CHECK (singleton = 1),
    eval_id TEXT NOT NULL,
    config TEXT NOT NULL
);
INSERT INTO "run_metadata" VALUES(1,'3f1c','{"tracking": {"report_to": null}}');
CREATE TABLE step_rows (
    sid      TEXT NOT NULL,
    eid      TEXT NOT NULL,
    step_id  INTEGER NOT NULL,
    fields   TEXT NOT NULL,  -- JSON document; multi-writer field-union via json_patch
    PRIMARY KEY (sid, eid, step_id)
);
INSERT INTO "step_rows" VALUES('s1','e1',0,'{"reward": 0.0, "done": false, "success": false}');
INSERT INTO "step_rows" VALUES('s1','e1',1,'{"reward": 0.0, "done": false, "success": false}');
INSERT INTO "step_rows" VALUES('s1','e2',0,'{"reward": 0.0, "done": false, "success": false}');
INSERT INTO "step_rows" VALUES('s1','e2',1,'{"reward": 0.0, "done": false, "success": false}');
INSERT INTO "step_rows" VALUES('s1','e3',0,'{"reward": 0.0, "done": false, "success": false}');
INSERT INTO "step_rows" VALUES('s1','e3',1,'{"reward": 0.0, "done": false, "success": false}');
INSERT INTO "step_rows" VALUES('s1','e4',0,'{"reward": 0.0, "done": false, "success": false}');
INSERT INTO "step_rows" VALUES('s1','e4',1,'{"reward": 0.0, "done": false, "success": false}');
INSERT INTO "step_rows" VALUES('s1','e5',0,'{"reward": 0.0, "done": false, "success": false}');
INSERT INTO "step_rows" VALUES('s1','e5',1,'{"reward": 0.0, "done": false, "success": false}');
INSERT INTO "step_rows" VALUES('s1','e7',0,'{"reward": 0.0, "done": false, "success": false}');
INSERT INTO "step_rows" VALUES('s1','e7',1,'{"reward": 0.0, "done": false, "success": false}');
INSERT INTO "step_rows" VALUES('s1','e8',0,'{"reward": 0.0, "done": false, "success": false}');
INSERT INTO "step_rows" VALUES('s1','e8',1,'{"reward": 0.0, "done": false, "success": false}');
INSERT INTO "step_rows" VALUES('s1','e9',0,'{"reward": 0.0, "done": false, "success": false}');
INSERT INTO "step_rows" VALUES('s1','e9',1,'{"reward": 0.0, "done": false, "success": false}');
INSERT INTO "step_rows" VALUES('s1','e99',0,'{"reward": 0.0, "done": false, "success": false}');
INSERT INTO "step_rows" VALUES('s1','e99',1,'{"reward": 0.0, "done": false, "success": false}');
CREATE TABLE work_queue (
    eval_id  TEXT NOT NULL,
    item     INTEGER NOT NULL,  -- index into the entry's work items, identical on every shard
    task_idx INTEGER NOT NULL,
    shard_id INTEGER,           -- claimant; NULL while unclaimed
    done     INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (eval_id, item)
);
CREATE INDEX idx_episode_results_eval ON episode_results(eval_id);
COMMIT;
