//! The program without a server: help, mistakes, exit codes, configuration.

use std::path::Path;

use assert_cmd::Command;

/// The program, deaf to the configuration and the servers of whoever runs the tests.
pub(crate) fn claudebus(home: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_claudebus"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("CLAUDEBUS_") {
            command.env_remove(name);
        }
    }
    command
        .env("CLAUDEBUS_CONTEXT", home.join("context.json"))
        .env("XDG_CONFIG_HOME", home)
        .env("HOME", home)
        .env("NO_COLOR", "1")
        .timeout(std::time::Duration::from_secs(60));
    command
}

#[test]
fn help_and_errors_read_as_they_are_kept() {
    trycmd::TestCases::new()
        .env("CLAUDEBUS_CONTEXT", "/nowhere/context.json")
        .env("XDG_CONFIG_HOME", "/nowhere")
        .env("NO_COLOR", "1")
        .env("COLUMNS", "100")
        .case("tests/cmd/*.md");
}

#[test]
fn a_wrong_file_is_told_with_its_line_and_the_nearest_word() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("bus.yaml");
    std::fs::write(&path, "server:\n  quick: 127.0.0.1:1\n").unwrap();
    for arguments in [&["config", "check"][..], &["serve", "--config"], &["config", "show", "-c"]] {
        let output = claudebus(home.path()).args(arguments).arg(&path).output().unwrap();
        assert_eq!(output.status.code(), Some(78), "{arguments:?}");
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(
            error.contains("bus.yaml:2: unknown key `quick` in `server`; did you mean `quic`?"),
            "{error}"
        );
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn a_file_with_which_no_server_starts_is_not_called_good() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("bus.yaml");
    std::fs::write(&path, "server:\n  quic: 0.0.0.0:4222\n").unwrap();
    for arguments in [["config", "check"], ["serve", "--config"]] {
        let output = claudebus(home.path()).args(arguments).arg(&path).output().unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(78), "{error}");
        assert!(error.contains("--auth-token-file"), "{error}");
    }
    let mut with_token = claudebus(home.path());
    with_token.env("CLAUDEBUS_AUTH_TOKEN", "a long secret").args(["config", "check"]).arg(&path);
    assert!(with_token.output().unwrap().status.success());
}

#[test]
fn the_environment_and_the_default_file_are_read() {
    let home = tempfile::tempdir().unwrap();
    std::fs::create_dir(home.path().join("claudebus")).unwrap();
    let file = home.path().join("claudebus/claudebus.yaml");
    std::fs::write(&file, "server:\n  log: debug\n  tail_budget: ${BUDGET:-32MiB}\n").unwrap();
    let output = claudebus(home.path())
        .env("CLAUDEBUS_QUIC", "127.0.0.1:5")
        .args(["config", "show", "--output", "json"])
        .output()
        .unwrap();
    let shown: Vec<serde_json::Value> = output
        .stdout
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| serde_json::from_slice(line).unwrap())
        .collect();
    let find = |key: &str| {
        let found = shown.iter().find(|line| line["key"] == key).unwrap();
        (found["value"].as_str().unwrap().to_owned(), found["origin"].as_str().unwrap().to_owned())
    };
    let place = |line: u32| format!("{}:{line}", file.display());
    assert_eq!(find("server.log"), ("debug".into(), place(2)));
    assert_eq!(find("server.tail_budget"), ("32MiB".into(), place(3)));
    assert_eq!(find("server.quic"), ("127.0.0.1:5".into(), "environment CLAUDEBUS_QUIC".into()));
    assert_eq!(find("server.http").1, "default");
    let path = claudebus(home.path()).args(["config", "path"]).output().unwrap();
    assert_eq!(String::from_utf8(path.stdout).unwrap().trim(), file.display().to_string());
}

#[test]
fn completions_and_manual_pages_come_for_all_commands() {
    let home = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = claudebus(home.path()).args(["completions", shell]).output().unwrap().stdout;
        assert!(String::from_utf8(script).unwrap().contains("subscribe"), "{shell}");
    }
    let folder = home.path().join("man");
    claudebus(home.path()).arg("man").arg(&folder).assert().success();
    for page in ["claudebus.1", "claudebus-stream-add.1", "claudebus-serve.1"] {
        assert!(folder.join(page).is_file(), "{page}");
    }
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let home = tempfile::tempdir().unwrap();
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_claudebus"))
        .args(["completions", "bash"])
        .env("HOME", home.path())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
}
