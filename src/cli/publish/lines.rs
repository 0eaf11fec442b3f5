//! Lines of standard input, up to a limit.

use tokio::io::AsyncBufReadExt as _;

use crate::cli::exit::{Exit, Failure};

/// Reads up to a line break, but no more than `limit` bytes.
pub(super) async fn read_line(
    input: &mut (impl tokio::io::AsyncBufRead + Unpin),
    line: &mut Vec<u8>,
    limit: usize,
) -> Result<usize, Failure> {
    loop {
        let available = input.fill_buf().await?;
        if available.is_empty() {
            return Ok(line.len());
        }
        let end = available.iter().position(|byte| *byte == b'\n');
        let used = end.map_or(available.len(), |end| end + 1);
        line.extend_from_slice(available.get(..used).unwrap_or_default());
        input.consume(used);
        if line.len() > limit {
            return Err(Failure::new(Exit::Failed, "a line is larger than any server takes"));
        }
        if end.is_some() {
            return Ok(line.len());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lines_are_read_whole_and_bounded() {
        let mut input = tokio::io::BufReader::with_capacity(2, &b"one\ntwo\r\nthree"[..]);
        let mut lines = Vec::new();
        loop {
            let mut line = Vec::new();
            if read_line(&mut input, &mut line, 100).await.unwrap() == 0 {
                break;
            }
            lines.push(line);
        }
        assert_eq!(lines, [&b"one\n"[..], b"two\r\n", b"three"]);
        let mut long = tokio::io::BufReader::new(&b"12345"[..]);
        assert!(read_line(&mut long, &mut Vec::new(), 4).await.is_err());
    }
}
