//! A bar on a terminal, nothing elsewhere.

use std::io::IsTerminal;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Counts bytes of `total` and shows them under `title` on standard error, if a person looks at it.
pub(crate) fn bytes(title: &'static str, total: u64) -> ProgressBar {
    let template = "{msg:12} {wide_bar} {bytes:>10} of {total_bytes:<10} {bytes_per_sec:>12} {eta:>4}";
    styled(Some(total), template).with_message(title)
}

/// Counts bytes of `total` that come from a swarm; the message says from whom.
pub(crate) fn swarm(total: u64) -> ProgressBar {
    styled(Some(total), "{wide_bar} {bytes} of {total_bytes} {bytes_per_sec} {eta} {msg}")
}

/// Counts bytes that are given to a swarm.
pub(crate) fn seeding() -> ProgressBar {
    styled(None, "{spinner} seeding: {bytes} sent, {bytes_per_sec}, {msg}")
}

fn styled(total: Option<u64>, template: &str) -> ProgressBar {
    let target = if std::io::stderr().is_terminal() {
        ProgressDrawTarget::stderr()
    } else {
        ProgressDrawTarget::hidden()
    };
    let bar = ProgressBar::with_draw_target(total, target);
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}
