//! How much memory another process has had.

use std::fs;

/// Most at once so far, KiB (proc_pid_status(5), `VmHWM`). None of a process that has ended.
pub(super) fn peak_kib(process: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::peak_kib;

    #[test]
    fn a_process_has_a_peak_while_it_lives() {
        let peak = peak_kib(std::process::id());
        assert!(peak.is_some_and(|kib| (500..1 << 24).contains(&kib)), "{peak:?}");
        assert_eq!(peak_kib(u32::MAX), None);
    }
}
