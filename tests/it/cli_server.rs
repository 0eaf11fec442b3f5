//! The program with a server: what a README promises, through the real binary.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;

use crate::cli::claudebus;
use crate::serving::{Serving, end_of, until};

#[test]
fn the_first_minute() {
    let mut server = Serving::start();
    assert_eq!(
        server.ok(&["publish", "claude.task.started", "hello"]),
        "stored in CLAUDE_EVENTS as 1\n"
    );
    let text =
        server.ok(&["subscribe", "--stream", "CLAUDE_EVENTS", "--count", "1", "--format", "raw"]);
    assert_eq!(text, "hello\n");
    let message = server.json(&["get", "CLAUDE_EVENTS", "1"]);
    assert_eq!((&message["payload"], &message["seq"]), (&"hello".into(), &1.into()));
    let stream = server.json(&["stream", "ls"]);
    assert_eq!(stream["config"]["name"], "CLAUDE_EVENTS", "untouched ones are not listed");
    assert_eq!(stream["config"]["max_msgs"], 100_000);
    let talk = server.talk();
    assert!(talk.contains("is ready") && talk.contains("sync: acknowledged means on the disk"));
    assert_eq!(server.stop(), Some(0), "{}", server.talk());
    assert!(!server.path("context.json").exists());

    server.begin(&[], &[]);
    server.until_ready();
    let last = server.ok(&["get", "CLAUDE_EVENTS", "--last", "claude.>", "--template", "{{seq}}"]);
    assert_eq!(last, "1\n");
    assert!(server.path("ready.json").exists());
    assert_eq!(server.stop(), Some(0));
    assert!(!server.path("ready.json").exists());
}

#[test]
fn a_durable_consumer_goes_on_where_it_stopped() {
    let server = Serving::start();
    let printed = server.ok(&["pub", "claude.n", "message {{n}}", "--count", "5"]);
    assert_eq!(printed, "stored 5 messages in CLAUDE_EVENTS, 1 to 5\n");
    let take = |count: &str| {
        server.ok(&["sub", "claude.>", "--durable", "d", "-n", count, "--format", "raw"])
    };
    assert_eq!(take("2"), "message 1\nmessage 2\n");
    assert_eq!(take("3"), "message 3\nmessage 4\nmessage 5\n");
    let (code, talk) =
        server.fails(&["sub", "claude.>", "--durable", "d", "-n1", "--wait", "50ms"]);
    assert_eq!((code, talk.contains("0 of 1 messages came")), (5, true), "{talk}");
    let info = server.json(&["consumer", "info", "CLAUDE_EVENTS", "d"]);
    assert_eq!(info["ack_floor"]["stream_seq"], 5);
    let (code, talk) =
        server.fails(&["sub", "other.>", "--stream", "CLAUDE_EVENTS", "--durable", "d"]);
    assert_eq!(code, 2, "{talk}");
}

#[test]
fn a_consumer_that_exists_begins_where_it_was_told_when_it_was_made() {
    let server = Serving::start();
    server.ok(&["pub", "claude.n", "message {{n}}", "--count", "5"]);
    let subscribe = ["sub", "claude.>", "--durable", "d", "-n", "1", "--format", "raw"];
    let take = |more: &[&str]| server.ok(&[&subscribe[..], more].concat());
    assert_eq!(take(&["--deliver", "3"]), "message 3\n");
    assert_eq!(take(&["--deliver", "3"]), "message 4\n", "it is what is asked for, and goes on");
    let refused = |more: &[&str]| {
        let (code, talk) = server.fails(&[&subscribe[..], more].concat());
        assert_eq!(code, 2, "{talk}");
        talk
    };
    for other in ["all", "4", "new", "2026-01-31T12:00:00Z"] {
        let talk = refused(&["--deliver", other]);
        assert!(talk.contains("consumer d of CLAUDE_EVENTS is there already"), "{talk}");
        assert!(talk.contains("begins at sequence 3"), "{talk}");
        assert!(
            talk.contains("leave --deliver out") && talk.contains("rm CLAUDE_EVENTS d"),
            "{talk}"
        );
    }
    let talk = refused(&["--replay", "original"]);
    assert!(talk.contains("brings messages at once") && talk.contains("--replay out"), "{talk}");
    assert_eq!(take(&[]), "message 5\n");
}

#[test]
fn what_a_command_fails_on_comes_again_and_ends_as_a_dead_letter() {
    let server = Serving::start();
    server.ok(&["stream", "add", "JOBS", "--subjects", "jobs.>", "--retention", "workqueue"]);
    server.ok(&["consumer", "add", "JOBS", "worker", "--max-deliver", "2"]);
    server.ok(&["publish", "jobs.a", "good", "-H", "Kind: x"]);
    server.ok(&["publish", "jobs.b", "bad"]);
    let log = server.path("log");
    let script = format!(
        "read line; echo \"$line $CLAUDEBUS_ATTEMPT $CLAUDEBUS_HEADER_KIND\" >> '{}'; test \"$line\" = good",
        log.display()
    );
    let work = ["sub", "--stream", "JOBS", "--durable", "worker", "-n", "3"];
    let done = server
        .run(&[&work[..], &["--exec", &script, "--retry-delay", "0"]].concat())
        .output()
        .unwrap();
    let talk = String::from_utf8(done.stderr).unwrap();
    assert!(done.status.success() && talk.contains("the command failed for JOBS 2"), "{talk}");
    let mut lines: Vec<_> =
        std::fs::read_to_string(&log).unwrap().lines().map(|l| l.trim().to_owned()).collect();
    lines.sort();
    assert_eq!(lines, ["bad 1", "bad 2", "good 1 x"]);

    let letter = server.json(&["dead", "ls", "JOBS"]);
    assert_eq!((&letter["subject"], &letter["attempts"]), (&"jobs.b".into(), &2.into()));
    let seq = letter["seq"].to_string();
    assert!(server.ok(&["dead", "show", "JOBS", &seq]).contains("bad"));
    assert_eq!(server.ok(&["dead", "requeue", "JOBS", &seq]), "requeued 1 dead letter\n");
    let again = server.ok(&["consumer", "next", "JOBS", "worker", "--template", "{{payload}}"]);
    assert_eq!(again, "bad\n");
    assert_eq!(server.fails(&["dead", "drop", "JOBS", "--all", "--yes"]).0, 4, "none is left");
    assert_eq!(server.json(&["stream", "info", "JOBS"])["state"]["messages"], 0);
}

#[test]
fn more_than_may_be_unsettled_are_taken_in_several_steps() {
    let server = Serving::start();
    server.ok(&["stream", "add", "JOBS", "--subjects", "jobs"]);
    server.ok(&["consumer", "add", "JOBS", "narrow", "--max-pending", "2"]);
    server.ok(&["publish", "jobs", "{{n}}", "--count", "5"]);
    let all =
        server.ok(&["consumer", "next", "JOBS", "narrow", "-n", "5", "--template", "{{seq}}"]);
    assert_eq!(all, "1\n2\n3\n4\n5\n");
}

#[test]
fn a_flag_that_makes_no_sense_is_a_wrong_command_line() {
    let server = Serving::start();
    let (code, talk) = server.fails(&["serve", "--quic", "nonsense"]);
    assert_eq!((code, talk.contains("--quic")), (2, true), "{talk}");
    let (code, talk) = server.fails(&["publish", "", "x"]);
    assert_eq!(code, 2, "{talk}");
    let (code, talk) = server.fails(&["publish", "a", "x", "--ca", "no-such-file"]);
    assert_eq!((code, talk.contains("no-such-file")), (2, true), "{talk}");
}

#[test]
fn ways_to_publish() {
    let server = Serving::start();
    let lines = server
        .run(&["pub", "claude.in", "--stdin", "--id", "line-{{n}}"])
        .write_stdin("a\nb\r\n\nd")
        .output()
        .unwrap();
    assert_eq!(
        String::from_utf8(lines.stdout).unwrap(),
        "stored 4 messages in CLAUDE_EVENTS, 1 to 4\n"
    );
    let again = server.json(&["pub", "claude.in", "x", "--id", "line-2"]);
    assert_eq!((&again["duplicate"], &again["seq"]), (&true.into(), &2.into()));
    let file = server.path("payload");
    std::fs::write(&file, [0xff, 0, 1]).unwrap();
    server.ok(&["pub", "claude.file", "--file", file.to_str().unwrap(), "-H", "A: b"]);
    let shown = server.json(&["get", "CLAUDE_EVENTS", "--last", "claude.file"]);
    assert_eq!(shown["payload_base64"], "/wAB");
    assert_eq!(shown["headers"]["A"][0], "b");
    let (code, talk) = server.fails(&["pub", "claude.in", "x", "--expect-last-seq", "1"]);
    assert_eq!((code, talk.contains("wrong last sequence: 5")), (1, true), "{talk}");
    let (code, talk) = server.fails(&["pub", "nobody.stores", "x"]);
    assert_eq!((code, talk.contains("no stream stores it")), (4, true), "{talk}");
    let all = server.ok(&[
        "sub",
        "--stream",
        "CLAUDE_EVENTS",
        "-n",
        "4",
        "--template",
        "{{seq}}={{payload}}",
    ]);
    assert_eq!(all, "1=a\n2=b\n3=\n4=d\n");
    let info = server.json(&["stream", "info", "CLAUDE_EVENTS"]);
    assert_eq!(info["state"]["consumer_count"], 0, "a subscription leaves nothing behind");
}

#[test]
fn a_failure_part_way_tells_what_was_stored() {
    let server = Serving::start();
    server.ok(&["stream", "add", "FULL", "--subjects", "f", "--max-msgs", "3", "--discard", "new"]);
    let (code, talk) = server.fails(&["pub", "f", "x", "--count", "4"]);
    assert_eq!((code, talk.contains("stored 3 of 4 in FULL, 1 to 3")), (1, true), "{talk}");
    server.ok(&["purge", "FULL", "--yes"]);
    let printed =
        server.run(&["pub", "f", "x", "--count", "4", "--output", "json"]).output().unwrap();
    let last = printed.stdout.trim_ascii().rsplit(|byte| *byte == b'\n').next().unwrap();
    let last: Value = serde_json::from_slice(last).unwrap();
    assert_eq!((&last["stored"], &last["of"]), (&3.into(), &4.into()), "{last}");
}

#[test]
fn a_publish_gives_up_on_a_server_that_does_not_answer() {
    let server = Serving::start();
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_claudebus"))
        .args(["pub", "claude.n", "--stdin", "--timeout", "500ms", "--output", "json"])
        .env("CLAUDEBUS_CONTEXT", server.path("context.json"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = child.stdin.take().unwrap();
    lines.write_all(b"a\n").unwrap();
    let mut first = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut first).unwrap();
    assert!(first.contains("CLAUDE_EVENTS"), "{first}");
    server.signal("-STOP");
    until("every thread has stopped", || server.is_stopped());
    lines.write_all(b"b\n").unwrap();
    let mut status = None;
    until("the publisher gives up", || {
        status = child.try_wait().unwrap();
        status.is_some()
    });
    server.signal("-CONT");
    let talk = std::io::read_to_string(child.stderr.take().unwrap()).unwrap();
    assert_eq!((status.unwrap().code(), talk.contains("/healthz")), (Some(5), true), "{talk}");
    assert!(talk.contains("stored 1 of 2 in CLAUDE_EVENTS"), "{talk}");
}

#[test]
fn streams_and_consumers_are_looked_after() {
    let server = Serving::start();
    server.ok(&[
        "stream",
        "add",
        "ORDERS",
        "--subjects",
        "orders.>",
        "--max-age",
        "1h",
        "--max-bytes",
        "1MiB",
    ]);
    let edited = server.json(&["stream", "edit", "ORDERS", "--max-msgs", "3"]);
    assert_eq!(
        (&edited["config"]["max_msgs"], &edited["config"]["max_bytes"]),
        (&3.into(), &(1 << 20).into())
    );
    let file = server.path("stream.json");
    std::fs::write(&file, r#"{"description":"what was ordered"}"#).unwrap();
    let edited = server.json(&["stream", "edit", "ORDERS", "--file", file.to_str().unwrap()]);
    assert_eq!(
        (&edited["config"]["max_msgs"], &edited["config"]["description"]),
        (&3.into(), &"what was ordered".into())
    );
    server.ok(&["pub", "orders.{{n}}", "x", "--count", "5"]);
    let info = server.ok(&["stream", "info", "ORDERS"]);
    assert!(info.contains("Messages: 3") && info.contains("1.0 MiB"), "{info}");
    let subjects = server.ok(&["stream", "subjects", "ORDERS", "--output", "json"]);
    assert_eq!(subjects.lines().count(), 3, "{subjects}");

    server.ok(&["consumer", "add", "ORDERS", "c", "--filter", "orders.4", "--max-deliver", "5"]);
    server.ok(&["consumer", "add", "ORDERS", "c", "--filter", "orders.4", "--max-deliver", "5"]);
    let (code, talk) = server.fails(&["consumer", "add", "ORDERS", "c", "--max-deliver", "9"]);
    assert_eq!((code, talk.contains("consumer edit")), (1, true), "{talk}");
    let paused = server.json(&["consumer", "pause", "ORDERS", "c", "--for", "1h"]);
    assert_eq!((&paused["paused"], &paused["num_pending"]), (&true.into(), &1.into()));
    let resumed = server.ok(&["consumer", "resume", "ORDERS", "c"]);
    assert!(resumed.contains("To come: 1"), "{resumed}");
    let edited = server.json(&["consumer", "edit", "ORDERS", "c", "--ack-wait", "5s"]);
    assert_eq!(edited["config"]["ack_wait"], 5_000_000_000_u64);
    assert_eq!(server.ok(&["consumer", "ls", "ORDERS", "--output", "json"]).lines().count(), 1);
    server.ok(&["consumer", "rm", "ORDERS", "c", "--yes"]);

    assert_eq!(server.ok(&["purge", "ORDERS", "--keep", "1", "--yes"]), "deleted 2 messages\n");
    assert!(server.ok(&["stats"]).contains("ORDERS"));
    server.ok(&["stream", "rm", "ORDERS", "--yes"]);
    for arguments in [
        &["stream", "info", "ORDERS"][..],
        &["get", "ORDERS", "1"],
        &["consumer", "ls", "ORDERS"],
        &["sub", "--stream", "ORDERS"],
        &["sub", "orders.x", "--durable", "d"],
    ] {
        let (code, talk) = server.fails(arguments);
        assert_eq!((code, talk.contains("hint:")), (4, true), "{arguments:?}: {talk}");
    }
}

#[test]
fn questions_find_their_answers() {
    let server = Serving::start();
    assert_eq!(server.fails(&["request", "who", "?"]).0, 4, "nobody listens");
    let mut replier = std::process::Command::new(env!("CARGO_BIN_EXE_claudebus"))
        .args(["reply", "who", "--exec", "tr a-z A-Z", "--count", "1"])
        .env("CLAUDEBUS_CONTEXT", server.path("context.json"))
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut answer = String::new();
    until("somebody answers", || {
        let output = server.run(&["request", "who", "me"]).output().unwrap();
        answer = String::from_utf8(output.stdout).unwrap();
        output.status.success()
    });
    assert_eq!(answer, "ME\n");
    until("the replier has done what it should", || replier.try_wait().unwrap().is_some());
}

#[test]
fn a_file_written_for_jetstream_makes_its_streams() {
    let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/event-bus.yaml");
    let server = Serving::start_with(&["--config", config.to_str().unwrap()], &[]);
    let names = server.ok(&["stream", "ls", "--output", "json"]);
    assert_eq!(names.lines().count(), 3, "{names}");
    let info = server.json(&["stream", "info", "MCP_EVENTS"]);
    assert_eq!(info["config"]["max_msgs"], 50_000);
    assert_eq!(info["config"]["max_age"], 3 * 86_400 * 1_000_000_000_u64);
    assert!(server.talk().contains("observability.tracing"), "{}", server.talk());
}

#[test]
fn weaker_durability_is_said_at_the_start_and_later() {
    let server = Serving::start_with(&["--durability", "interval:200ms"], &[]);
    assert!(server.talk().contains("a power cut may lose"), "{}", server.talk());
    server.ok(&["pub", "claude.a", "x"]);
    let stats = server.json(&["stats"]);
    assert_eq!(stats["server"]["durability"], "interval:200ms");
    assert_eq!(stats["streams"][0]["state"]["messages"], 1);
}

#[test]
fn a_token_keeps_others_out() {
    let server = Serving::start_with(&[], &[("CLAUDEBUS_AUTH_TOKEN", "s3cret")]);
    for token in [&[][..], &["--token", "wrong"]] {
        let (code, talk) = server.fails(&[&["stream", "ls"][..], token].concat());
        assert_eq!((code, talk.contains("CLAUDEBUS_TOKEN")), (6, true), "{talk}");
    }
    server.ok(&["stream", "ls", "--token", "s3cret"]);
    assert!(!server.talk().contains("s3cret"));
}

#[test]
fn nobody_is_let_in_from_outside_without_a_token() {
    let mut server = Serving { home: tempfile::tempdir().unwrap(), child: None };
    server.begin(&["--http", "0.0.0.0:0"], &[]);
    assert_eq!(server.ended(), Some(78));
    assert!(server.talk().contains("--auth-token-file"), "{}", server.talk());
}

#[test]
fn a_crash_loses_nothing_that_was_acknowledged() {
    let mut server = Serving::start();
    server.ok(&["pub", "claude.a", "one"]);
    assert_eq!(server.stop(), Some(0));
    server.begin(&[], &[("CLAUDEBUS_CRASH_AT", "journal.sync.after:3")]);
    server.until_ready();
    let (mut stored, mut failed) = (1, false);
    for _ in 0..10 {
        // It never comes back, so the command waits in vain for its acknowledgement.
        let output =
            server.run(&["pub", "claude.a", "more"]).timeout(Duration::from_secs(3)).output();
        if output.is_ok_and(|output| output.status.success()) {
            stored += 1;
        } else {
            failed = true;
            break;
        }
    }
    assert!(failed, "the crash point was not passed");
    assert_eq!(server.ended(), None, "it aborted");
    server.begin(&[], &[]);
    server.until_ready();
    let state = server.json(&["stream", "info", "CLAUDE_EVENTS"])["state"]["messages"].clone();
    assert!(state.as_u64().unwrap() >= stored, "{state} of {stored}");
}

#[test]
fn a_reader_that_goes_away_ends_a_subscription_without_a_word() {
    let server = Serving::start();
    server.ok(&["pub", "claude.n", "{{n}}", "--count", "2000"]);
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_claudebus"))
        .args(["sub", "--stream", "CLAUDE_EVENTS"])
        .env("CLAUDEBUS_CONTEXT", server.path("context.json"))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let mut status = None;
    until("the subscriber notices", || {
        status = child.try_wait().unwrap();
        status.is_some()
    });
    let talk = std::io::read_to_string(child.stderr.take().unwrap()).unwrap();
    assert_eq!((status.unwrap().code(), talk.as_str()), (Some(0), ""));
}

#[test]
fn payloads_are_printed_as_they_are() {
    let serving = Serving::start();
    let payload = b"A\x1b[31mred\x1b[0m\x00\x07\xff\xfe\x7fZ";
    let file = serving.path("payload");
    std::fs::write(&file, payload).unwrap();
    serving.ok(&["publish", "claude.raw", "--file", file.to_str().unwrap()]);
    let arguments = ["get", "CLAUDE_EVENTS", "--last", "claude.raw", "--format", "raw"];
    let output = serving.run(&arguments).output().unwrap();
    assert_eq!(output.stdout, [&payload[..], b"\n"].concat());
    serving.ok(&["publish", "claude.del", "a\u{7f}b\u{1b}[1m"]);
    let found = serving.json(&["get", "CLAUDE_EVENTS", "--last", "claude.del"]);
    assert_eq!(found["payload"], "a\u{7f}b\u{1b}[1m");
}

#[test]
fn benches_measure_and_read_everything_back() {
    let serving = Serving::start();
    let common = ["--count", "3000", "--rounds", "2", "--size", "100", "--verify"];
    for kind in ["publish", "consume", "latency"] {
        let count = if kind == "latency" { ["--count", "50"] } else { ["--clients", "2"] };
        let arguments = match kind {
            "latency" => [&["bench", kind][..], &common[2..], &count].concat(),
            _ => [&["bench", kind][..], &common, &count].concat(),
        };
        let report = serving.json(&arguments);
        let result = &report["results"][0];
        assert_eq!(result["samples"].as_array().unwrap().len(), 2, "{report}");
        assert!(result["median_rate"].as_f64().unwrap() > 0.0);
        assert_eq!(result["median_latency_ns"].is_object(), kind == "latency", "{report}");
        assert_eq!(report["verified"], true);
    }
    serving.json(&["bench", "consume", "--no-ack", "--count", "3000", "--rounds", "1"]);
    let json = ["bench", "publish", "--content", "json", "--count", "3000", "--verify"];
    assert_eq!(serving.json(&json)["verified"], true);
    let (code, talk) = serving.fails(&[&json[..], &["--size", "10"]].concat());
    assert!(code == 2 && talk.contains("--size 96 or more"), "{code} {talk}");
    let mixed = ["bench", "mixed", "--count", "200", "--rate", "2000", "--replay", "100ms"];
    let report = serving.json(&mixed);
    let results = report["results"].as_array().unwrap();
    let measures: Vec<_> = results.iter().map(|result| result["measure"].as_str()).collect();
    assert_eq!(measures, [Some("publish"), Some("delivery"), Some("replay")]);
    assert!(results[1]["median_latency_ns"]["p99"].as_u64().unwrap() > 0, "{report}");
    let table = serving.ok(&["bench", "publish", "--duration", "100ms", "--rounds", "1"]);
    assert!(table.contains("Durability") && table.contains("claudebus"), "{table}");
    assert_eq!(serving.ok(&["stream", "ls", "--output", "json"]).matches("BENCH").count(), 0);
    let (code, talk) = serving.fails(&["bench", "publish", "--against", "nats://127.0.0.1:1"]);
    assert_eq!(code, 3);
    assert!(talk.contains("leave out --against"), "{talk}");
    let redis = ["--against", "redis://127.0.0.1:1"];
    let (code, talk) = serving.fails(&[&["bench", "publish"][..], &redis].concat());
    assert!(code == 3 && talk.contains("leave out --against"), "{code} {talk}");
    let (code, talk) = serving.fails(&[&["bench", "consume"][..], &redis].concat());
    assert!(code == 2 && talk.contains("`bench publish` and `bench latency`"), "{code} {talk}");
}

#[test]
fn benches_that_start_servers_of_their_own_tell_figures() {
    let serving = Serving::start();
    let dir = serving.path("").display().to_string();
    let run =
        |arguments: &[&str]| serving.json(&[&["bench"], arguments, &["--dir", &dir]].concat());
    let few = ["--count", "2000", "--subjects", "1000", "--rounds", "1", "--many", "3"];
    let ready = std::fs::read_to_string(serving.path("ready.json")).unwrap();
    let ready: Value = serde_json::from_str(&ready).unwrap();
    let other = format!("nats://{}", ready["nats"].as_str().unwrap());
    let against = ["--against", &other];
    let filters =
        run(&[&["filters", "--duration", "50ms", "--row", "2"], &few[..], &against].concat());
    let rows = filters["results"].as_array().unwrap();
    assert_eq!(rows.len(), 11, "{filters}");
    assert!(rows.iter().all(|row| row["per_second"].as_f64().unwrap() > 0.0), "{filters}");
    let others = rows.iter().filter(|row| row["measure"].as_str().unwrap().contains("over NATS"));
    assert_eq!(others.count(), 3, "{filters}");
    assert!(!serving.ok(&["stream", "list"]).contains("BENCH"), "streams are left behind");
    let growth = run(&["growth", "--axis", "size", "--duration", "50ms"]);
    let rows = growth["results"].as_array().unwrap();
    assert_eq!(rows.len(), 6, "{growth}");
    for row in rows {
        assert!(row["published_per_second"].as_f64().unwrap() > 0.0, "{growth}");
        assert!(row["resident_bytes"].as_f64().unwrap() > 1e6, "{growth}");
    }
    let received = |row: &Value| row["received_per_second"].as_f64().unwrap();
    assert!(rows.iter().map(received).sum::<f64>() > 0.0, "{growth}");
    let recovery = ["recovery", "--stored", "1MB", "--duration", "50ms", "--rounds", "1"];
    let recovery = run(&recovery);
    assert_eq!(recovery["results"].as_array().unwrap().len(), 3, "{recovery}");
    let idle = ["connections", "--idle", "20", "--subscribers", "10", "--rounds", "1"];
    let connections = run(&[&idle[..], &["--count", "3"]].concat());
    let rows = connections["results"].as_array().unwrap();
    assert_eq!(rows.len(), 4, "{connections}");
    assert!(rows[2..].iter().all(|row| row["median"].as_f64().unwrap() > 0.0), "{connections}");
    let limits = run(&["limits", "--count", "20", "--rounds", "1"]);
    assert!(limits["results"][4]["ratio"].as_f64().unwrap() > 0.1, "{limits}");
    let left = std::fs::read_dir(serving.path("")).unwrap().flatten();
    let left: Vec<_> = left.map(|entry| entry.file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().contains("bench")), "{left:?}");
}

/// Its clients would wait for the server to come back for ever.
#[cfg(unix)]
#[test]
fn a_bench_whose_own_server_ends_fails() {
    let home = tempfile::tempdir().unwrap();
    let mut bench = std::process::Command::new(env!("CARGO_BIN_EXE_claudebus"))
        .args(["bench", "filters", "--only", "everything", "--count", "20000000", "--dir"])
        .arg(home.path())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut talk = BufReader::new(bench.stderr.take().unwrap());
    let mut line = String::new();
    talk.read_line(&mut line).unwrap();
    assert!(line.contains("publishing 20000000 messages"), "{line}");
    let folder = std::fs::read_dir(home.path()).unwrap().next().unwrap().unwrap().path();
    let ready = std::fs::read_to_string(folder.join("ready.json")).unwrap();
    let ready: Value = serde_json::from_str(&ready).unwrap();
    let (url, ca) = (format!("quic://{}", ready["quic"].as_str().unwrap()), &ready["ca"]);
    let messages = ["stream", "info", "CLAUDEBUS_BENCH_0", "--output", "json", "--server", &url];
    until("messages are published", || {
        let info =
            claudebus(home.path()).args(messages).args(["--ca", ca.as_str().unwrap()]).output();
        let info: Option<Value> = serde_json::from_slice(&info.unwrap().stdout).ok();
        info.is_some_and(|info| info["state"]["messages"].as_u64() > Some(0))
    });
    let server = ready["pid"].to_string();
    let killed = std::process::Command::new("kill").args(["-9", &server]).status().unwrap();
    assert!(killed.success());
    let status = end_of(&mut bench, Duration::from_secs(30)).expect("the bench ends");
    assert_eq!(status.code(), Some(1));
    let mut told = String::new();
    talk.read_to_string(&mut told).unwrap();
    assert!(told.contains("the server ended while it was measured"), "{told}");
    assert!(!folder.exists(), "its folder is left behind");
}

/// glibc takes what a server's memory needs from the environment of its start, so that the server starts
/// itself once more, unless somebody has said something else.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[test]
fn a_server_has_its_allocator_set_up() {
    let environment = |serving: &Serving| {
        let id = serving.child.as_ref().unwrap().id();
        let name = std::fs::read_to_string(format!("/proc/{id}/comm")).unwrap();
        assert_eq!(name, "claudebus\n");
        let bytes = std::fs::read(format!("/proc/{id}/environ")).unwrap();
        let texts = bytes.split(|byte| *byte == 0).map(|text| String::from_utf8_lossy(text).into());
        texts.filter(|text: &String| text.starts_with("MALLOC_")).collect::<Vec<_>>()
    };
    let mut serving = Serving::start();
    assert_eq!(environment(&serving), ["MALLOC_ARENA_MAX=2", "MALLOC_MMAP_THRESHOLD_=262144"]);
    serving.stop();
    let mut serving = Serving::start_with(&[], &[("MALLOC_ARENA_MAX", "3")]);
    assert_eq!(environment(&serving), ["MALLOC_ARENA_MAX=3"]);
    serving.stop();
}
