//! Configuration files: whatever is in one, it is understood or refused, never a panic, and what is
//! understood is understood alike when it is read again.
#![no_main]

use std::collections::BTreeMap;

use claudebus::config::{ConfigFile, Resolved};
use libfuzzer_sys::fuzz_target;

fn read(text: &str) -> Result<String, String> {
    let environment = |name: &str| (name.len() % 2 == 0).then(|| "value: [1]".to_owned());
    let file = ConfigFile::parse(text, "fuzz.yaml", &environment).map_err(|e| e.to_string())?;
    let none = |_: &str| None;
    let resolved =
        Resolved::new(&file, &none, &BTreeMap::new()).map_err(|error| error.to_string())?;
    Ok(format!("{:?}", resolved.settings))
}

fuzz_target!(|text: &str| {
    assert_eq!(read(text), read(text));
});
