//! Why a consumer delivers nothing: each reason made on purpose, told by the API and in words. What
//! takes a slow reader is in `native`.

use serde_json::{Value, json};

use crate::serving::{Serving, until};

/// The reason as the API tells it, and in words.
fn why(server: &Serving, consumer: &str) -> (Value, String) {
    let info = ["consumer", "info", "S", consumer];
    let reason = server.json(&info)["idle"].clone();
    let text = server.ok(&info);
    let line = text.lines().find(|line| line.trim_start().starts_with("Idle because"));
    let words = line.unwrap_or_else(|| panic!("no reason: {text}"));
    let (_, words) = words.split_once(':').unwrap();
    (reason, words.trim().to_owned())
}

/// A server with a stream S, which keeps one dead letter.
fn start() -> Serving {
    let server = Serving::start();
    let config = server.path("stream.json");
    let dead = json!({"subjects": ["s.>"], "dead_letters": {"max_msgs": 1}});
    std::fs::write(&config, dead.to_string()).unwrap();
    server.ok(&["stream", "create", "S", "--file", config.to_str().unwrap()]);
    server
}

#[test]
fn nothing_is_there_to_be_delivered() {
    let server = start();
    server.ok(&["consumer", "create", "S", "all"]);
    server.ok(&["consumer", "create", "S", "other", "--filter", "s.other"]);
    assert_eq!(why(&server, "all"), ("end_of_stream".into(), "all is delivered".into()));
    server.ok(&["publish", "s.a", "1"]);
    assert_eq!(why(&server, "all"), ("no_pull_waiting".into(), "nobody asks for messages".into()));
    let (reason, words) = why(&server, "other");
    assert_eq!(reason, "filter_matches_nothing", "{words}");
    server.ok(&["consumer", "next", "S", "all", "--then", "nothing"]);
    assert_eq!(why(&server, "all").0, "end_of_stream", "also while it is not acknowledged");
}

#[test]
fn something_keeps_it_from_delivering() {
    let server = start();
    server.ok(&["publish", "s.a", "1"]);
    server.ok(&["publish", "s.a", "2"]);
    server.ok(&["consumer", "create", "S", "full", "--max-pending", "1"]);
    server.ok(&["consumer", "next", "S", "full", "--then", "nothing"]);
    assert_eq!(why(&server, "full").0, "max_ack_pending", "without a pull as well");
    server.ok(&["consumer", "pause", "S", "full", "--for", "1h"]);
    let (reason, words) = why(&server, "full");
    let until = reason["paused"]["until"].as_str().unwrap();
    assert_eq!(words, format!("paused until {until}"));
    server.ok(&["consumer", "resume", "S", "full"]);
    server.ok(&["consumer", "create", "S", "ordered", "--order-by", "subject"]);
    server.ok(&["consumer", "next", "S", "ordered", "--then", "nothing"]);
    // It sees that the second one must wait when it looks at it.
    server.fails(&["consumer", "next", "S", "ordered", "--wait", "300ms"]);
    let (reason, words) = why(&server, "ordered");
    assert_eq!(reason, "keys_in_flight");
    assert!(words.contains("same keys"), "{words}");
}

#[test]
fn messages_wait_for_their_time() {
    let server = start();
    server.ok(&["publish", "s.a", "1"]);
    let refuse = ["sub", "s.>", "--durable", "refused", "-n1", "--exec", "false"];
    server.ok(&[&refuse[..], &["--retry-delay", "1h"]].concat());
    let (reason, words) = why(&server, "refused");
    let until_then = reason["backing_off"]["until"].as_str().unwrap();
    assert!(until_then.ends_with('Z') && words.starts_with("refused messages wait"), "{words}");
    server.ok(&["publish", "s.a", "2"]);
    server.ok(&["consumer", "create", "S", "slow", "--replay", "0.01x"]);
    server.ok(&["consumer", "next", "S", "slow"]);
    until("the next message is looked at", || {
        server.fails(&["consumer", "next", "S", "slow", "--wait", "1ms"]);
        why(&server, "slow").0["replaying"]["until"].is_string()
    });
}

#[test]
fn dead_letters_are_full() {
    let server = start();
    server.ok(&["publish", "s.a", "x", "--count", "2"]);
    server.ok(&["consumer", "create", "S", "c", "--max-deliver", "1"]);
    server.ok(&["consumer", "next", "S", "c", "-n2", "--then", "nak"]);
    let full = ("dead_letters_full".into(), "the dead-letter stream is full".into());
    assert_eq!(why(&server, "c"), full);
}

#[test]
fn the_rest_is_damaged() {
    let mut server = start();
    server.ok(&["publish", "s.a", &"x".repeat(1000), "--count", "300"]);
    server.ok(&["consumer", "create", "S", "c"]);
    assert_eq!(server.stop(), Some(0));
    let segment = std::fs::read_dir(server.path("data/segments")).unwrap().next().unwrap();
    let segment = segment.unwrap().path();
    let mut bytes = std::fs::read(&segment).unwrap();
    bytes[96 + 88 + 100] ^= 4;
    std::fs::write(&segment, bytes).unwrap();
    server.begin(&[], &[]);
    server.until_ready();
    server.fails(&["consumer", "next", "S", "c", "-n300", "--wait", "1s"]);
    let (reason, words) = why(&server, "c");
    assert!(reason["damaged"].as_str().unwrap().contains("are damaged in"), "{reason}");
    assert!(words.starts_with("damaged: sequences 1 to"), "{words}");
}
