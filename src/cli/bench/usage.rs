//! What a server's process has used so far, read from `/proc`.
//!
//! Known on Linux, of processes of the same machine and user; nothing elsewhere.

/// What a process has used.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Usage {
    /// Processor time of all threads, in seconds.
    pub(super) cpu: f64,
    /// Bytes it caused to be written to disks.
    pub(super) written: u64,
    /// Memory it holds now, in bytes.
    pub(super) resident: u64,
}

/// Ticks a second in `/proc/<pid>/stat`: what Linux shows to programs, whatever it uses inside.
const TICKS: f64 = 100.0;

impl Usage {
    /// What a process has used so far.
    pub(super) fn of(pid: Option<u32>) -> Option<Self> {
        let read = |name: &str| std::fs::read_to_string(format!("/proc/{}/{name}", pid?)).ok();
        Self::parse(&read("stat")?, &read("io")?, &read("status")?)
    }

    fn parse(stat: &str, io: &str, status: &str) -> Option<Self> {
        // The program's name stands in brackets and may hold spaces; user time is the 12th after it.
        let mut times = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
        let mut ticks = || times.next()?.parse::<f64>().ok();
        let cpu = (ticks()? + ticks()?) / TICKS;
        let written = field(io, "write_bytes:")?;
        Some(Self { cpu, written, resident: field(status, "VmRSS:")? * 1024 })
    }

    /// What was used since `before`; the memory is that of now.
    pub(super) fn since(&self, before: &Self) -> Self {
        Self {
            cpu: self.cpu - before.cpu,
            written: self.written.saturating_sub(before.written),
            resident: self.resident,
        }
    }
}

fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found() {
        let stat = "7 (a ) b) S 1 2 3 4 5 6 7 8 9 10 250 50 0 0 20 0";
        let usage =
            Usage::parse(stat, "wchar: 9\nwrite_bytes: 4096\n", "VmHWM: 9 kB\nVmRSS:\t2 kB");
        let expected = Usage { cpu: 3.0, written: 4096, resident: 2048 };
        assert_eq!(usage, Some(expected));
        assert_eq!(Usage::parse("", "", ""), None);
        let before = Usage { cpu: 1.0, written: 96, resident: 9999 };
        let since = Usage { cpu: 2.0, written: 4000, resident: 2048 };
        assert_eq!(expected.since(&before), since);
    }
}
