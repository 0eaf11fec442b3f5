//! Messages that are published later, through the real binary.

use crate::serving::{Serving, until};

#[test]
fn messages_for_later_survive_a_kill_and_are_published_once() {
    let mut server = Serving::start();
    server.ok(&["stream", "create", "ORDERS", "--subjects", "orders.>"]);
    let later =
        |server: &Serving, arguments: &[&str]| server.ok(&[&["publish"], arguments].concat());
    let listed = later(&server, &["orders.remind", "4711", "--in", "1s"]);
    assert_eq!(listed, "scheduled; `claudebus schedule ls` lists it\n");
    let tick = ["orders.tick", "", "--every", "1h", "--name", "tick"];
    assert_eq!(later(&server, &tick), "scheduled as tick\n");
    let report = ["orders.report", "", "--cron", "0 8 * * 1-5", "--tz", "Europe/Berlin"];
    later(&server, &[&report[..], &["--name", "report"]].concat());
    later(&server, &["orders.never", "", "--at", "2100-01-01T00:00:00Z", "--name", "never"]);
    let (code, talk) = server.fails(&["publish", "orders.x", "", "--cron", "61 * * * *"]);
    assert_eq!(code, 2);
    assert!(talk.contains("\"61\" is not a minute"), "{talk}");
    server.signal("-KILL");
    server.ended();
    server.begin(&[], &[]);
    server.until_ready();
    until("the reminder is published", || {
        server.json(&["stream", "info", "ORDERS"])["state"]["messages"] == 1
    });
    let message = server.json(&["get", "ORDERS", "1"]);
    assert_eq!(
        (&message["subject"], &message["payload"]),
        (&"orders.remind".into(), &"4711".into())
    );
    let table = server.ok(&["schedule", "ls"]);
    let names: Vec<&str> =
        table.lines().filter_map(|line| line.split_whitespace().next()).collect();
    assert_eq!(names.len(), 4, "{table}");
    assert!(
        names.ends_with(&["report", "never"]) || names.ends_with(&["tick", "never"]),
        "{table}"
    );
    assert!(table.contains("Europe/Berlin") && table.contains("2100-01-01T00:00:00Z"), "{table}");
    assert_eq!(server.ok(&["schedule", "rm", "tick"]), "cancelled tick\n");
    let (code, talk) = server.fails(&["schedule", "rm", "tick"]);
    assert_eq!(code, 4, "{talk}");
    assert_eq!(server.ok(&["schedule", "ls", "CLAUDEBUS_SCHEDULES"]).lines().count(), 3);
}

#[test]
fn lines_are_stored_together_or_not_at_all() {
    let server = Serving::start();
    server.ok(&["stream", "create", "S", "--subjects", "s.>"]);
    let publish = ["publish", "s.{{n}}", "--stdin", "--atomic", "--id", "1"];
    let said = server.run(&publish).write_stdin("a\nb\nc\n").output().unwrap().stdout;
    assert_eq!(String::from_utf8(said).unwrap(), "stored 3 messages together\n");
    let said = server.run(&publish).write_stdin("a\nb\nc\n").output().unwrap().stdout;
    assert_eq!(String::from_utf8(said).unwrap(), "were stored before\n");
    let (code, talk) = server.fails(&["publish", "s.x", "x", "--atomic", "--count", "1001"]);
    assert_eq!(code, 1);
    assert!(talk.contains("too large: 1000"), "{talk}");
    assert_eq!(server.json(&["stream", "info", "S"])["state"]["messages"], 3);
}
