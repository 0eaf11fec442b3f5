//! Reads what strace wrote: system calls with the file they are about and when they were over.

/// One finished system call.
#[derive(Clone, Debug, PartialEq)]
pub struct Call {
    /// Its name.
    pub name: String,
    /// The file of its descriptor, as `strace -y` shows it.
    pub file: String,
    /// The rest of its arguments, bytes as `\x..`.
    pub arguments: String,
    /// What it returned; negative for errors.
    pub result: i64,
    /// When it began, in seconds since the Unix epoch.
    pub began: f64,
    /// When it was over.
    pub ended: f64,
}

/// The calls in `text`, written by `strace -f -ttt -T -y -x`, in the order in which they ended.
pub fn parse(text: &str) -> Vec<Call> {
    let mut calls = Vec::new();
    let mut unfinished: Vec<(&str, f64, String)> = Vec::new();
    for line in text.lines() {
        let Some((pid, rest)) = split_number(line) else { continue };
        let Some((stamp, rest)) = split_number(rest) else { continue };
        let Ok(time) = stamp.parse::<f64>() else { continue };
        if let Some(begun) = rest.strip_suffix(" <unfinished ...>") {
            unfinished.push((pid, time, begun.to_owned()));
        } else if let Some(resumed) = rest.strip_prefix("<... ") {
            let Some(index) = unfinished.iter().position(|(of, ..)| *of == pid) else { continue };
            let (_, began, begun) = unfinished.swap_remove(index);
            let Some((_, end)) = resumed.split_once(" resumed>") else { continue };
            calls.extend(call(began, &format!("{begun}{end}")));
        } else {
            calls.extend(call(time, rest));
        }
    }
    calls.sort_by(|a, b| a.ended.total_cmp(&b.ended));
    calls
}

/// The leading word, which is a number, and what follows it.
fn split_number(text: &str) -> Option<(&str, &str)> {
    let text = text.strip_prefix("[pid").map_or(text, |rest| rest.trim_start());
    let end = text.find([' ', ']'])?;
    let (word, rest) = text.split_at(end);
    word.starts_with(|c: char| c.is_ascii_digit())
        .then(|| (word, rest.trim_start_matches([' ', ']'])))
}

/// `name(fd<file>, arguments) = result <seconds>`.
fn call(began: f64, text: &str) -> Option<Call> {
    let (name, rest) = text.split_once('(')?;
    // The last ` = ` after a parenthesis: bytes among the arguments may look alike.
    let (arguments, end) = rest
        .rmatch_indices(" = ")
        .map(|(at, equals)| (rest[..at].trim_end(), &rest[at + equals.len()..]))
        .find_map(|(before, end)| Some((before.strip_suffix(')')?, end)))?;
    let mut words = end.split_whitespace();
    let result = words.next()?.parse().ok()?;
    let took: f64 = words.last()?.strip_prefix('<')?.strip_suffix('>')?.parse().ok()?;
    let file = arguments
        .split_once('<')
        .filter(|(fd, _)| fd.bytes().all(|b| b.is_ascii_digit()))
        .and_then(|(_, file)| file.split_once('>'))
        .map(|(file, _)| file.to_owned())
        .unwrap_or_default();
    Some(Call {
        name: name.to_owned(),
        file,
        arguments: arguments.to_owned(),
        result,
        began,
        ended: began + took,
    })
}

/// Bytes as `strace -x` shows them if some cannot be read.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("\\x{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_come_back_whole() {
        let text = "\
7 1700000000.100000 pwrite64(9</d/journal/1>, \"\\x41\\x42\"..., 4096, 0) = 4096 <0.000050>\n\
7 1700000000.200000 fdatasync(9</d/journal/1> <unfinished ...>\n\
8 1700000000.200100 write(1<pipe:[3]>, \"\\x0a\", 1) = 1 <0.000010>\n\
7 1700000000.200400 <... fdatasync resumed>) = 0 <0.000400>\n\
8 1700000000.300000 fdatasync(9</d/journal/1>) = -1 EIO (Input/output error) <0.000100>\n\
8 1700000000.400000 +++ exited with 0 +++\n";
        let calls = parse(text);
        let seen: Vec<_> = calls.iter().map(|c| (c.name.as_str(), c.result)).collect();
        assert_eq!(seen, [("pwrite64", 4096), ("write", 1), ("fdatasync", 0), ("fdatasync", -1)]);
        assert_eq!(calls[0].file, "/d/journal/1");
        assert!(calls[0].arguments.contains(&hex(b"AB")));
        assert!((calls[2].ended - 1_700_000_000.200_4).abs() < 1e-6);
    }
}
