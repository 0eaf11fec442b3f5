//! The rule: before a client has its answer, the bytes it depends on were written, and after that
//! write the same file was synced, successfully and completely.

use crate::strace::{Call, hex};

/// What a client was told, and what had to be on disk by then.
#[derive(Clone, Debug)]
pub struct Promise {
    /// For people.
    pub what: String,
    /// Bytes that the write must hold; none if any write to the journal will do.
    pub marker: Option<Vec<u8>>,
    /// Nothing before this counts, in seconds since the Unix epoch: when the request was sent.
    pub asked: f64,
    /// When the client had its answer, in seconds since the Unix epoch.
    pub told: f64,
}

/// System calls that put bytes into a file.
const WRITES: &[&str] = &["write", "pwrite64", "writev", "pwritev", "pwritev2"];
/// System calls that make a file's bytes durable.
const SYNCS: &[&str] = &["fdatasync", "fsync"];
/// The directory of the files that acknowledgements rest on.
const JOURNAL: &str = "/journal/";
/// Files in it that hold no groups yet: they are filled in the background, at any moment.
const PREPARED: &[&str] = &["/journal/spare-", "/journal/ballast"];

/// What is wrong with the promises, one line for each that was given too early.
pub fn violations(calls: &[Call], promises: &[Promise]) -> Vec<String> {
    promises.iter().filter_map(|promise| violation(calls, promise).err()).collect()
}

fn violation(calls: &[Call], promise: &Promise) -> Result<(), String> {
    // strace shows bytes as they are when all of them can be read.
    let marker = promise.marker.as_deref();
    let marker = marker.map(|bytes| (hex(bytes), String::from_utf8_lossy(bytes).into_owned()));
    let holds = |call: &&Call| {
        WRITES.contains(&call.name.as_str())
            && call.file.contains(JOURNAL)
            && !PREPARED.iter().any(|name| call.file.contains(name))
            && call.result > 0
            && call.began >= promise.asked
            && marker.as_ref().is_none_or(|(hex, text)| {
                call.arguments.contains(hex) || call.arguments.contains(text)
            })
    };
    let what = &promise.what;
    let Some(write) = calls.iter().find(holds) else {
        return Err(format!("{what}: no write to the journal holds it"));
    };
    if write.ended > promise.told {
        return Err(format!("{what}: told {:.0} us before it was written", early(write, promise)));
    }
    let syncs = |call: &&Call| {
        SYNCS.contains(&call.name.as_str())
            && call.file == write.file
            && call.result == 0
            && call.began >= write.ended
    };
    match calls.iter().find(syncs) {
        None => Err(format!("{what}: {} was not synced after it was written", write.file)),
        Some(sync) if sync.ended > promise.told => {
            Err(format!("{what}: told {:.0} us before the sync was over", early(sync, promise)))
        }
        Some(_) => Ok(()),
    }
}

/// By how many microseconds the promise came too early.
fn early(call: &Call, promise: &Promise) -> f64 {
    (call.ended - promise.told) * 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(name: &str, began: f64, ended: f64, result: i64) -> Call {
        let arguments = format!("3, \"{}\"...", hex(b"xMARKx"));
        let file = "/d/journal/1".to_owned();
        Call { name: name.to_owned(), file, arguments, result, began, ended }
    }

    fn judge(calls: &[Call]) -> Result<(), String> {
        let marker = Some(b"MARK".to_vec());
        violation(calls, &Promise { what: "m".into(), marker, asked: 1.0, told: 5.0 })
    }

    #[test]
    fn filling_a_spare_file_is_no_write_of_a_group() {
        let spare = Call { file: "/d/journal/spare-2".to_owned(), ..call("pwrite64", 1.1, 1.2, 9) };
        let filled = Call { file: spare.file.clone(), ..call("fdatasync", 1.2, 9.0, 0) };
        let calls = [spare, filled, call("pwrite64", 2.0, 3.0, 9), call("fdatasync", 3.0, 4.0, 0)];
        let promise = Promise { what: "m".into(), marker: None, asked: 1.0, told: 5.0 };
        assert_eq!(violation(&calls, &promise), Ok(()));
    }

    #[test]
    fn only_a_finished_sync_after_the_write_will_do() {
        let write = call("pwrite64", 2.0, 3.0, 100);
        assert_eq!(judge(&[write.clone(), call("fdatasync", 3.0, 4.0, 0)]), Ok(()));
        for wrong in [
            vec![],
            vec![write.clone()],
            vec![call("fdatasync", 3.0, 4.0, 0)],
            vec![write.clone(), call("fdatasync", 3.0, 6.0, 0)],
            vec![write.clone(), call("fdatasync", 3.0, 4.0, -1)],
            vec![write.clone(), call("fdatasync", 2.5, 4.0, 0)],
            vec![call("pwrite64", 0.5, 0.6, 100), call("fdatasync", 3.0, 4.0, 0)],
            vec![call("pwrite64", 4.0, 6.0, 100), call("fdatasync", 6.0, 7.0, 0)],
        ] {
            assert!(judge(&wrong).is_err(), "{wrong:?}");
        }
    }
}
