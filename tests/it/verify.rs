//! `claudebus verify`: what it finds in a data directory, what it says, and what it leaves alone.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use claudebus::client::{Client, StreamConfig};
use claudebus::server::Server;
use serde_json::Value;

use crate::cli::claudebus;

/// A data directory with a segment of one stream, left by a clean stop. `meanwhile` runs before that.
async fn a_directory(data: &Path, meanwhile: impl FnOnce()) {
    let server = Server::builder().data_directory(data).start().await.unwrap();
    let client = Client::builder().connect_over(server.connect()).await.unwrap();
    let stream = StreamConfig {
        name: "ORDERS".into(),
        subjects: vec!["orders.>".into()],
        ..Default::default()
    };
    client.create_stream(stream).await.unwrap();
    for n in 0..300 {
        client.publish("orders.new", vec![n as u8; 1000]).await.unwrap();
    }
    meanwhile();
    client.close().await;
    server.shutdown().await.unwrap();
}

fn verify(home: &Path, arguments: &[&str]) -> (i32, String, String) {
    let output = claudebus(home).arg("verify").args(arguments).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

/// Every file below a directory, but those that were set aside.
fn contents(directory: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut open = vec![directory.to_path_buf()];
    while let Some(directory) = open.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else if !path.components().any(|part| part.as_os_str() == "lost+found") {
                found.insert(path.clone(), std::fs::read(path).unwrap());
            }
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_is_named_and_set_aside_and_nothing_is_deleted() {
    let home = tempfile::tempdir().unwrap();
    let data = home.path().join("data");
    let path = data.to_str().unwrap();
    a_directory(&data, || {
        let (code, _, error) = verify(home.path(), &[path]);
        assert_eq!(code, 1);
        assert!(error.contains("is in use by another process"), "{error}");
    })
    .await;
    let whole = contents(&data);
    let (code, out, _) = verify(home.path(), &[path]);
    assert_eq!(code, 0, "{out}");
    assert!(out.contains("ORDERS  1      300   300       300"), "{out}");
    assert!(out.contains("all is whole"), "{out}");
    assert_eq!(contents(&data), whole);

    let segment = std::fs::read_dir(data.join("segments")).unwrap().next().unwrap();
    let segment = segment.unwrap().path();
    let mut bytes = std::fs::read(&segment).unwrap();
    bytes[96 + 88 + 100] ^= 4;
    std::fs::write(&segment, bytes).unwrap();
    let damaged = contents(&data);
    let (code, out, error) = verify(home.path(), &[path]);
    assert_eq!(code, 65, "{out}");
    assert!(error.contains("is damaged in 1 place"), "{error}");
    assert!(out.contains("lost: sequences 1 to "), "{out}");
    assert!(out.contains(" of ORDERS\n"), "{out}");
    let (code, out, _) = verify(home.path(), &[path, "--output", "json"]);
    let told: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &told["whole"]), (65, &Value::Bool(false)));
    let lost = told["findings"].as_array().unwrap().iter().find(|f| !f["lost"].is_null());
    let lost = lost.unwrap();
    assert_eq!((&lost["lost"]["stream"], &lost["start"]), (&"ORDERS".into(), &96.into()));
    let lost = lost["lost"]["last_seq"].as_u64().unwrap();
    assert_eq!(told["streams"][0]["readable"], 300 - lost);
    assert_eq!(contents(&data), damaged, "nothing is changed unless it is asked for");

    let (code, out, _) = verify(home.path(), &[path, "--repair"]);
    assert_eq!(code, 65);
    assert!(out.contains("copied: segments/"), "{out}");
    assert_eq!(contents(&data), damaged, "what counts is not touched");
    let kept: Vec<_> = std::fs::read_dir(data.join("lost+found")).unwrap().collect();
    assert_eq!(kept.len(), 2, "a part and its note: {kept:?}");
    let (code, _, error) = verify(home.path(), &[path, "--repair"]);
    assert_eq!(code, 65);
    assert!(error.contains("lost+found holds all of it already"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_start_does_without_is_moved() {
    let home = tempfile::tempdir().unwrap();
    let data = home.path().join("data");
    let path = data.to_str().unwrap();
    a_directory(&data, || {}).await;
    a_second_life(&data).await;
    let mut manifests: Vec<_> =
        std::fs::read_dir(data.join("manifest")).unwrap().map(|e| e.unwrap().path()).collect();
    manifests.sort();
    assert_eq!(manifests.len(), 2);
    let flip = |path: &Path| {
        let mut bytes = std::fs::read(path).unwrap();
        bytes[70] ^= 1;
        std::fs::write(path, bytes).unwrap();
    };
    flip(&manifests[1]);
    flip(&data.join("index/sled/db"));
    let (code, out, _) = verify(home.path(), &[path]);
    assert_eq!(code, 65);
    assert!(out.contains("damaged: manifest/") && out.contains("damaged: index"), "{out}");
    let (_, out, _) = verify(home.path(), &[path, "--repair"]);
    assert!(out.contains("moved: manifest/") && out.contains("moved: index"), "{out}");
    assert!(!manifests[1].exists() && !data.join("index").exists());
    let (code, out, _) = verify(home.path(), &[path]);
    assert_eq!(code, 0, "{out}");
    assert!(out.contains("ORDERS  1      301   301       301"), "{out}");
}

async fn a_second_life(data: &Path) {
    let server = Server::builder().data_directory(data).start().await.unwrap();
    let client = Client::builder().connect_over(server.connect()).await.unwrap();
    client.publish("orders.new", "once more").await.unwrap();
    client.close().await;
    server.shutdown().await.unwrap();
}

#[test]
fn what_is_no_data_directory_is_left_alone() {
    let home = tempfile::tempdir().unwrap();
    let (code, _, error) = verify(home.path(), &["nowhere"]);
    assert_eq!(code, 4);
    assert!(error.contains("nowhere is no data directory"), "{error}");
    assert!(!home.path().join("nowhere").exists() && !Path::new("nowhere").exists());
}

/// A life of a server that keeps two copies.
async fn with_copies(data: &Path, place: &Path) {
    let server = Server::builder().data_directory(data).two_copies(Some(place.to_path_buf()));
    server.start().await.unwrap().shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_that_are_gone_are_made_again_by_a_start() {
    let home = tempfile::tempdir().unwrap();
    let (data, place) = (home.path().join("data"), home.path().join("copies"));
    let path = data.to_str().unwrap();
    a_directory(&data, || {}).await;
    with_copies(&data, &place).await;
    let (code, out, _) = verify(home.path(), &[path]);
    assert_eq!(code, 0, "{out}");
    std::fs::remove_dir_all(&place).unwrap();
    for arguments in [&[path][..], &[path, "--repair"]] {
        let (code, out, error) = verify(home.path(), arguments);
        assert_eq!(code, 65, "{out}");
        assert!(out.contains("are missing or out of date"), "{out}");
        assert!(out.contains("means: nothing is lost by it"), "{out}");
        assert!(error.contains("start the server with `copies: 2`"), "{error}");
        assert!(!place.exists());
    }

    // With damage besides, the copies may be what saves it.
    let segment = std::fs::read_dir(data.join("segments")).unwrap().next().unwrap();
    let segment = segment.unwrap().path();
    let whole = std::fs::read(&segment).unwrap();
    let mut bytes = whole.clone();
    bytes[96 + 88 + 100] ^= 4;
    std::fs::write(&segment, bytes).unwrap();
    let (code, _, error) = verify(home.path(), &[path]);
    assert_eq!(code, 65);
    assert!(error.contains("what is damaged here may be whole there; --repair copies"), "{error}");

    std::fs::write(&segment, whole).unwrap();
    with_copies(&data, &place).await;
    let (code, out, _) = verify(home.path(), &[path]);
    assert_eq!(code, 0, "{out}");
}
